#!/usr/bin/env python3
"""What of the differential driver runs without its packages: every file compiles, and models and
texts are drawn alike from one seed. The comparison itself: scripts/test.sh --differential."""
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent / "differential"
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))
import configurations  # noqa: E402
import texts  # noqa: E402


class Drawn(unittest.TestCase):
    def test_files_compile(self):
        files = list(HERE.glob("*.py"))
        self.assertGreater(len(files), 5)
        for file in files:
            compile(file.read_text(), file, "exec")

    def test_models_are_whole_and_repeat(self):
        kinds = set()
        for index in range(60):
            drawn = configurations.draw_model(1, index)
            self.assertEqual(drawn, configurations.draw_model(1, index))
            config = drawn["config"]
            kinds.add(config["model_type"])
            self.assertEqual(config["num_attention_heads"] % config["num_key_value_heads"], 0)
            longest = max(len(text) for text in drawn["texts"])
            self.assertLessEqual(longest, configurations.context_of(config))
            self.assertGreater(longest, 1)
            runs = configurations.draw_runs(drawn, 1, index)
            self.assertEqual(runs, configurations.draw_runs(drawn, 1, index))
            self.assertGreater(len({settings["score.chunk"] for _, _, settings in runs}), 2)
        self.assertEqual(kinds, set(configurations.ARCHITECTURES))

    def test_texts_repeat_and_are_unicode(self):
        drawn = texts.random_texts("seed", ["<s>"], 500)
        self.assertEqual(drawn, texts.random_texts("seed", ["<s>"], 500))
        self.assertEqual(len(drawn), 500)
        for text in drawn:
            text.encode()


if __name__ == "__main__":
    unittest.main()
