"""Few-shot learning by first-order MAML, at every width and in the limits (paper, section 9.2 and Table 2).

`omniglot` reads the characters, `tasks` deals them, `fomaml` adapts and trains a whole meta-batch at once, `models`
holds the settings of the paper for each width, `train` is the loop with validation, checkpoints and the test.
"""
