#!/usr/bin/env python3
"""One process of Hugging Face Accelerate: seconds per decoded token, of a prompt, or of scoring, as JSON.

    accelerate_arm.py MODEL_DIR disk|cpu decode|prompt COUNT OFFLOAD_DIR
    accelerate_arm.py MODEL_DIR disk|cpu score DOCUMENTS OFFLOAD_DIR BATCH

score: log-probabilities of documents of 512 tokens, BATCH at a time.

disk: every decoder layer and the head are offloaded to the checkpoint's files (disk_offload); cpu:
to RAM (cpu_offload). Computes on the first GPU, or on the CPU where there is none.
"""
import json
import sys
import time

import accelerate
import torch
import transformers


def device_map(config, place, main):
    layers = {f"model.layers.{i}": place for i in range(config.num_hidden_layers)}
    return {"model.embed_tokens": main, "model.rotary_emb": main, **layers, "model.norm": main,
            "lm_head": place}


def load(folder, place, offload):
    config = transformers.AutoConfig.from_pretrained(folder)
    main = 0 if torch.cuda.is_available() else "cpu"
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    accelerate.load_checkpoint_in_model(model, folder, dtype=torch.bfloat16,
                                        device_map=device_map(config, place, main),
                                        offload_folder=offload, offload_state_dict=False)
    model = accelerate.dispatch_model(model, device_map(config, place, main), main_device=main,
                                      offload_dir=offload)
    return model.eval(), main


def main():
    folder, place, what, count, offload, *batch = sys.argv[1:]
    model, device = load(folder, place, offload)
    vocab = model.config.vocab_size
    seconds = []

    def step(ids, cache):
        begin = time.monotonic()
        with torch.inference_mode():
            out = model(input_ids=torch.tensor([ids], device=device), past_key_values=cache,
                        use_cache=True, logits_to_keep=1)
        out.logits[0, -1, 0].item()  # waits for a GPU
        seconds.append(time.monotonic() - begin)
        return out.past_key_values

    def score(documents):
        ids = torch.tensor([[(d * 131 + i * 7919) % vocab for i in range(512)] for d in documents],
                           device=device)
        with torch.inference_mode():
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state
            total = 0.0
            for row in range(len(documents)):  # all logits at once would take gigabytes
                logits = model.lm_head(states[row, :-1]).float()
                total += torch.log_softmax(logits, -1).gather(1, ids[row, 1:, None]).sum().item()
        return total

    if what == "score":
        begin = time.monotonic()
        for first in range(0, int(count), int(batch[0])):
            score(range(first, min(int(count), first + int(batch[0]))))
        seconds.append(time.monotonic() - begin)
    elif what == "prompt":
        step([i * 7919 % vocab for i in range(int(count))], None)
    else:
        cache = step([1, 2], None)
        for i in range(int(count) + 1):
            cache = step([i * 104729 % vocab], cache)
        del seconds[:2]
    print(json.dumps({"seconds": seconds,
                      "version": f"{accelerate.__version__}, torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
