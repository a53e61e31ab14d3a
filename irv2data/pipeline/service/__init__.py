"""Input work on other machines, by the tf.data service: the same batches, in the same order, whatever workers do.

A worker gets the graph of the pipeline and, for each step of a client's batches that it takes, plans it by itself
(`worker`), from what the client says of its pipeline (`request`). The service promises no order, and loses what a
worker had taken when it dies; the client puts steps in order and makes missing ones itself (`in_order`, `client`).
"""
