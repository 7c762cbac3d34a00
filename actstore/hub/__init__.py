"""Push a store to the Hugging Face Hub, pull one, and know what either side has."""
