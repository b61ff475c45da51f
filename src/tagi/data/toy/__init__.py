"""A small compositional text-to-text task family with a text corpus and a tokenizer of its own.

An input is five words, one of each kind (animal, food, tool, place, person), in random order. A task asks for the words
of two or three of the kinds, through a word map (as they are, plural, partner, small form, two invented languages), in
one of many wordings. Unseen tasks combine a selection of kinds and a map that training saw apart; nobody can answer
without the instruction, for no two programs agree.
"""
