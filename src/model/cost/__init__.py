"""What a model costs, in closed form and without torch: parameters, FLOPs, state and memory.

A `ModelSpec` comes in; `model.size_matching`, `estimate` and the reports take the numbers. Tests compare them with the
built model and with the allocator.
"""
