"""Makes the folder of a tiny model that vLLM can serve with `--load-format dummy`: configuration, tokenizer, chat template, no weights.

    python3 make_model.py FOLDER

What it says is noise; that it is measured is the point. The heads have 64 dimensions: with fewer, vLLM's CPU attention fails.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 512
SPECIAL = ("<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
TEXT = (
    "the order is on its way and will be with you soon",
    "please tell us if we can help with anything else today",
    "user assistant system",
)


def make(folder: Path) -> None:
    """Write the model's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 2048,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "vocab_size": VOCABULARY,
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
    make(Path(sys.argv[1]))
