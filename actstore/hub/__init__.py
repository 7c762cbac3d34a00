"""The Hugging Face Hub: push a store, pull one, open one from afar. Only we use huggingface_hub."""
