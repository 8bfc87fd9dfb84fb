"""Data sets: what there is (`catalogue`), how it is read, and the numbers that the paper published."""
