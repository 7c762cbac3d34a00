"""A store read from afar, byte range by byte range: today on the Hugging Face Hub."""
