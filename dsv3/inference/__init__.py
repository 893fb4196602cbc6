"""Text, quickly: tokens to tokens, sampling, the tokenizer, the model laid out for speed, weights into it."""
