"""Systems that learn from the same episodes, one file each.

A learner is an `nn.Module` whose `forward(batch)` gives `(loss, metrics)`, so that the hooks of DDP and
DeepSpeed fire; `parameter_groups(weight_decay)` says what is decayed.
"""
