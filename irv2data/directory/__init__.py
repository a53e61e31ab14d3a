"""`keras.utils.image_dataset_from_directory`, converted once and then served by the pipeline."""
