"""A text encoder of a few thousand weights, for tests of what reads its states."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

import tokenizers


def t5_folder(folder: Path, width: int) -> Path:
    """A tiny random T5 with a tokenizer of words, as its own library writes it."""
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "a", "cat", "red", "of", "dog"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=8, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
