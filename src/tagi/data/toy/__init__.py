"""A small compositional family of text-to-text tasks, with its own corpus and tokenizer.

An input is five words, one of each kind (animal, food, tool, place, person), in random order. A task selects the words
of two or three kinds and applies a word map (unchanged, plural, partner, diminutive, two invented languages). Its
instruction has one of many wordings. Unseen tasks combine a selection of kinds and a map that occur only separately in
training. They cannot be solved without the instruction, because no two tasks have the same answers.
"""
