"""The project's main study: does a small language model know which statements are true?"""
