"""English letters to ARPAbet phonemes: a small Transformer trained on the CMU Pronouncing Dictionary."""
