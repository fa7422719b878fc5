"""The lab pair's tokenizer and the token arrays that its training reads.

A byte-level BPE of 4,096 tokens, trained on the train split with the three domains in equal shares. Digits stay
single, a newline merges with the indentation that follows. `<|im_end|>` ends documents and turns alike, so that
the base model has learned to produce it before it sees a chat.
"""

import json
import random
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import DOMAINS

VOCABULARY = 4096
START, END, MASK, PAD = SPECIAL = ("<|im_start|>", "<|im_end|>", "<|mask|>", "<|endoftext|>")
TRAINING_CHARACTERS = 6_000_000  # a domain; more changes the merges little
# In this order: one digit; a word with the one space or sign before it; signs; a blank run up to the last space
# before a word, which takes that space; any other blanks.
PIECES = r"\p{N}|[^\s\p{L}\p{N}]?\p{L}+| \p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?= [^\s\p{N}])|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(documents, seed=0):
    """Train the BPE on the train documents, the same number of characters of each domain. Returns a `Tokenizer`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_balanced(documents, seed), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(
            f"The text yields {tokenizer.get_vocab_size()} tokens instead of {VOCABULARY}; give more text to train on."
        )
    return tokenizer


def _balanced(documents, seed):
    """Draw train texts of each domain up to the size of the smallest domain."""
    texts = {domain: [doc.text for doc in documents if doc.domain == domain and not doc.heldout] for domain in DOMAINS}
    budget = min(TRAINING_CHARACTERS, *(sum(map(len, texts[domain])) for domain in DOMAINS))
    for domain in DOMAINS:
        random.Random(seed).shuffle(texts[domain])
        left = budget
        for text in texts[domain]:
            yield text[:left]
            left -= len(text[:left])
            if left <= 0:
                break


def save_tokenizer(tokenizer, folder, context=1024):
    """Write the folder that transformers' `AutoTokenizer` and mlx-lm load: the BPE, its settings, its chat template."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "eos_token": END,
        "pad_token": PAD,
        "mask_token": MASK,
        "additional_special_tokens": [START],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_tokenizer(folder):
    """Read back what `save_tokenizer` wrote, as the bare `tokenizers.Tokenizer` that the functions below take."""
    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def bytes_per_token(documents, tokenizer):
    """Bytes of text a token, by domain, over the held-out documents. Returns a dict."""
    report = {}
    for domain in DOMAINS:
        texts = [doc.text for doc in documents if doc.domain == domain and doc.heldout]
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts))
        report[domain] = sum(len(text.encode()) for text in texts) / tokens
    return report


def pack(documents, tokenizer, context, seed=0):
    """Put documents end to end, `<|im_end|>` after each, into one stream of token ids, uint16 (n,).

    Long documents are cut into pieces of at most four contexts, and the pieces are shuffled, so that any few
    contexts in a row mix the domains.
    """
    pieces, longest = [], 4 * context
    for encoding in tokenizer.encode_batch_fast([doc.text for doc in documents]):
        ids = np.array([*encoding.ids, tokenizer.token_to_id(END)], np.uint16)
        pieces += [ids[start : start + longest] for start in range(0, len(ids), longest)]
    random.Random(seed).shuffle(pieces)
    return np.concatenate(pieces)


def pack_all(documents, tokenizer, context, seed=0):
    """Pack the train documents as `train`, and by domain the held-out ones. Returns a dict of arrays to save.

    `heldout_<domain>` is a stream, and `heldout_<domain>_bytes` the bytes of its text, for bits per byte.
    """
    arrays = {"train": pack([doc for doc in documents if not doc.heldout], tokenizer, context, seed)}
    for domain in DOMAINS:
        held = [doc for doc in documents if doc.domain == domain and doc.heldout]
        arrays[f"heldout_{domain}"] = pack(held, tokenizer, context, seed)
        arrays[f"heldout_{domain}_bytes"] = np.int64(sum(len(doc.text.encode()) for doc in held))
    return arrays


def chat_prompt(prompt):
    """The text that `CHAT_TEMPLATE` makes of one user turn, up to where the assistant begins."""
    return f"{START}user\n{prompt}{END}\n{START}assistant\n"


def encode_chats(chats, tokenizer, max_len):
    """Encode chats of at most `max_len` tokens, prompt in its template, then response, then `<|im_end|>`.

    Returns a dict of arrays to save: `tokens` uint16, all chats end to end; `offsets` int64 (n + 1,), where each
    begins; `prompt_lengths` int32, in tokens; `response_bytes` int32; `domains` uint8, an index into `DOMAINS`;
    `heldout` bool. Prompt and response are encoded apart, as they are when a model answers.
    """
    prompts = tokenizer.encode_batch_fast([chat_prompt(chat.prompt) for chat in chats])
    responses = tokenizer.encode_batch_fast([chat.response + END for chat in chats])
    rows = [
        (chat, prompt.ids, response.ids)
        for chat, prompt, response in zip(chats, prompts, responses, strict=True)
        if len(prompt.ids) + len(response.ids) <= max_len
    ]
    lengths = [len(prompt) + len(response) for _, prompt, response in rows]
    return {
        "tokens": np.concatenate([np.array(prompt + response, np.uint16) for _, prompt, response in rows]),
        "offsets": np.cumsum([0, *lengths], dtype=np.int64),
        "prompt_lengths": np.array([len(prompt) for _, prompt, _ in rows], np.int32),
        "response_bytes": np.array([len(chat.response.encode()) for chat, _, _ in rows], np.int32),
        "domains": np.array([DOMAINS.index(chat.domain) for chat, _, _ in rows], np.uint8),
        "heldout": np.array([chat.heldout for chat, _, _ in rows], bool),
    }
