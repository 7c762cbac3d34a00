"""A capture while vLLM serves: requests told apart step by step, pooled as they run."""
