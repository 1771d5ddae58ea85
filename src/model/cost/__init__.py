"""The cost of a model in closed form, without torch: parameters, FLOPs, state and memory.

The input is a `ModelSpec`; `model.size_matching`, `estimate` and the reports use the results. Tests compare them with
the built model and with the allocator.
"""
