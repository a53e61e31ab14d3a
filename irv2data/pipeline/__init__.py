"""Dataset to batches: a plan in NumPy, a graph in `tf.data`. `irv2data.Pipeline` is the way in."""
