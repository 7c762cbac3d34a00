"""What a model is asked: files of questions made into examples, and these into token ids."""
