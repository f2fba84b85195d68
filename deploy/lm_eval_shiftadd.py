#!/usr/bin/env python3
"""lm-eval's command line with one more model: shiftadd-completions, local-completions with the special tokens that the
model's tokenizer puts before a text. lm-eval's transformers backend puts them there too; its client of remote tokenizers asks
for text without them, and a model that was trained behind BOS (LLaMA, Gemma) is then judged without it.

  lm_eval_shiftadd.py run --model shiftadd-completions --model_args base_url=http://host:port/v1/completions,model=NAME:TAG …
"""
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.openai_completions import LocalCompletionsAPI


@register_model("shiftadd-completions")
class ShiftaddCompletions(LocalCompletionsAPI):
    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "tokenizer_backend": "remote"})
        text = "a"
        body = {"model": self.model, "prompt": text}
        with_special = self.tokenizer._request_with_retries("POST", f"{self.tokenizer.base_url}/tokenize", json=body)
        whole, bare = with_special.json()["tokens"], self.tokenizer.encode(text)
        self._before = whole[:len(whole) - len(bare)] if whole[len(whole) - len(bare):] == bare else []

    def tok_encode(self, string, left_truncate_len=None, add_special_tokens=None, truncation=False, **kwargs):
        """As of transformers' tokenizers: special tokens unless they are said not to be wanted."""
        if isinstance(string, list):
            return [self.tok_encode(s, left_truncate_len, add_special_tokens, truncation, **kwargs) for s in string]
        before = self._before if add_special_tokens is None else []
        ids = before + super().tok_encode(string, **kwargs)
        return ids[-left_truncate_len:] if left_truncate_len else ids


if __name__ == "__main__":
    cli_evaluate()
