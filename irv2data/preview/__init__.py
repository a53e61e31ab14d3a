"""What a dataset holds, as figures and pictures: the facts behind the page of `irv2data preview`.

All facts are JSON-able and bounded, whatever the size of the dataset. They come from the index, but where they say that
records were read. Only `sheets` and `run` need TensorFlow.
"""
