"""Makes the folder of a tiny model that vLLM can serve with `--load-format dummy`: configuration, tokenizer, chat template, no weights.

    python3 make_model.py FOLDER [--layers 2] [--width 128]

What it says is noise; that it is measured is the point. The heads have 64 dimensions: with fewer, vLLM's CPU attention fails.
Every token that it can say is readable text, so that the first one is seen at once: of bytes that are only half a character vLLM says
nothing until the other half has come.
"""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HEAD = 64
SPECIAL = ("<s>", "</s>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
SYLLABLES = ("an", "be", "co", "di", "el", "fo", "gu", "hi", "in", "jo", "ka", "lu", "me", "no", "or", "pa")


def vocabulary() -> list[str]:
    """Return the tokens by number: the special ones, every printable ASCII character, words. A space is a `Ġ`, as GPT-2 has it."""
    characters = ["Ġ", "Ċ", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    words = [f"Ġ{first}{second}" for first in SYLLABLES for second in SYLLABLES]
    return [*SPECIAL, *characters, *words]


def make(folder: Path, layers: int, width: int) -> None:
    """Write the model's files into `folder`; `width` is a multiple of 64."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    # Without merges: what is read is read letter by letter, whatever language it is in.
    model = models.BPE({token: number for number, token in enumerate(tokens)}, [], unk_token=SPECIAL[2])
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 2048,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // HEAD,
            "num_key_value_heads": width // HEAD,
            "head_dim": HEAD,
            "hidden_act": "silu",
            "vocab_size": len(tokens),
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "torch_dtype": "float32",
        },
    )
    _write(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})


def _write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    make(options.folder, options.layers, options.width)
