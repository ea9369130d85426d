#!/usr/bin/env python3
"""One process of llama.cpp: seconds per decoded token, or of a prompt, as one line of JSON.

    llama_cpp_arm.py FILE.gguf THREADS decode|prompt COUNT repacked|mapped

The first decoded token is left out: it follows the prompt. "mapped": blocks stay as the file has
them, where llama.cpp would otherwise keep a copy in an order that suits the CPU.
"""
import json
import sys
import time

import llama_cpp


def keep_mapped():
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def mapped():
        params = defaults()
        if not hasattr(params, "use_extra_bufts"):  # ctypes would take any name
            sys.exit("this version of llama-cpp-python cannot leave blocks as they are")
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = mapped


def main():
    file, threads, what, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if sys.argv[5] == "mapped":
        keep_mapped()
    llama = llama_cpp.Llama(model_path=file, n_ctx=1024, n_batch=512, n_threads=threads,
                            n_threads_batch=threads, n_gpu_layers=-1, use_mmap=True,
                            verbose=False)
    vocab = llama.n_vocab()
    seconds = []
    if what == "prompt":
        ids = [i * 7919 % vocab for i in range(count)]
        begin = time.monotonic()
        llama.eval(ids)
        seconds.append(time.monotonic() - begin)
    else:
        llama.eval([1, 2])
        for i in range(count + 1):
            begin = time.monotonic()
            llama.eval([i * 104729 % vocab])
            seconds.append(time.monotonic() - begin)
        seconds = seconds[1:]
    print(json.dumps({"seconds": seconds, "version": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
