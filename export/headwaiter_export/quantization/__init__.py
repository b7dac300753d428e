"""int8 variants of encoder graphs whose answers never depend on batch-mates, and what they lose against fp32.

Weights are int8 with a scale for each column, activations uint8 with a scale for each row, which is one token. The
integer products are exact; so are the sums that attention's weights are divided by. Nothing in a row's answer
depends on the rows beside it, not even by rounding.
"""
