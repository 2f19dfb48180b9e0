"""Make the small tokenizers of tests/golden_tokenizers, and what transformers 4.57 does with them.

    pip install 'transformers==4.57.*' sentencepiece protobuf jinja2
    python tests/peers/make_tokenizers.py            # makes the folders
    python tests/peers/make_tokenizers.py cohere     # makes some anew, and keeps the others
    python tests/peers/make_tokenizers.py --check    # compares another version with what is stored

Every tokenizer is trained on the texts of tokenizer_texts.py, with the normalizer, splits and
special tokens of a published family, and saved in the files of that family. `expected.json.gz` has,
for each hard text, the ids with and without special tokens, and the text they are decoded as.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from tokenizer_texts import (
    CHATML_TEMPLATE,
    COHERE_TEMPLATE,
    CONVERSATIONS,
    HARD,
    LLAMA_2_TEMPLATE,
    LLAMA_3_TEMPLATE,
    TOOLS,
    TRAINING,
)
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

GOLDEN = Path(__file__).parent.parent / "golden_tokenizers"
EXPECTED = "expected.json.gz"

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_SPLIT = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA_3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


# Training ----------------------------------------------------------------------------------------


def byte_pairs(
    special: Iterable[str], split: str | None, normalizer: Any = None, size: int = 420
) -> tokenizers.Tokenizer:
    """Train byte-level BPE, with GPT-2's split or another regular expression."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split is not None:
        steps = [pre_tokenizers.Split(Regex(split), behavior="isolated")]
        steps += [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TRAINING, trainer)
    return made


def pieces(path: Path, kind: str, size: int, **options: Any) -> None:
    """Train a model of SentencePiece. A few rules stand for the 240 kB of the usual ones."""
    rules = path.with_suffix(".tsv")
    rules.write_text("FB01\t66 69\n3000\t20\n2003\t20\nA0\t20\nA\t20\nD\t20\n9\t20\nFF46\t66\n")
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(
                [line for text in TRAINING for line in text.split("\n") if line]
            ),
            model_writer=file,
            model_type=kind,
            vocab_size=size,
            minloglevel=2,
            num_threads=1,
            hard_vocab_limit=False,
            **({"normalization_rule_tsv": str(rules)} if kind == "unigram" else {}),
            **options,
        )
    rules.unlink()


def words(path: Path, *, lowercase: bool) -> None:
    """Train a vocabulary of BERT."""
    made = tokenizers.BertWordPieceTokenizer(lowercase=lowercase, strip_accents=lowercase)
    made.train_from_iterator(TRAINING, vocab_size=420, show_progress=False, min_frequency=1)
    made.save_model(str(path))


# Folders -----------------------------------------------------------------------------------------


def gpt2(folder: Path) -> None:
    made = byte_pairs(["<|endoftext|>"], None)
    tokenizer = transformers.GPT2TokenizerFast(tokenizer_object=made)
    tokenizer.save_pretrained(folder)
    write(folder / "config.json", {"model_type": "gpt2", "eos_token_id": 0})
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()


def gpt2_older(folder: Path) -> None:
    byte_pairs(["<|endoftext|>"], None).model.save(str(folder))
    write(folder / "config.json", {"model_type": "gpt2", "eos_token_id": 0})


def opt(folder: Path) -> None:
    """GPT-2's files with a start token, and padding in added_tokens.json."""
    byte_pairs(["<pad>", "</s>", "<unk>"], None).model.save(str(folder))
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "model_max_length": 99}
    config |= {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write(folder / "tokenizer_config.json", config)
    write(folder / "added_tokens.json", {"[NEW]": 420, "new_word": 421})


def roberta(folder: Path) -> None:
    byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], None).model.save(str(folder))
    write(folder / "config.json", {"model_type": "roberta"})


def llama3(folder: Path) -> None:
    special = [f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "eot_id")]
    special += ["<|start_header_id|>", "<|end_header_id|>"]
    made = byte_pairs([], LLAMA_3_SPLIT)
    made.add_special_tokens(special)
    start = made.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", start)]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = LLAMA_3_TEMPLATE
    tokenizer.save_pretrained(folder)
    ends = [made.token_to_id(token) for token in special[1:3]]
    write(folder / "config.json", {"model_type": "llama", "eos_token_id": ends})
    write(folder / "generation_config.json", {"bos_token_id": start, "eos_token_id": ends})


def deepseek(folder: Path) -> None:
    """Words cut in three steps, by a class of Llama, which puts a start token before a text."""
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁▁｜>"]
    steps = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_SPLIT]
    made = byte_pairs(special, None)
    cuts = [pre_tokenizers.Split(Regex(step), behavior="isolated") for step in steps]
    cuts += [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "legacy": True}
    names = ("bos_token", "eos_token", "pad_token")
    config |= {**dict(zip(names, special, strict=True)), "unk_token": None}
    config |= {"add_eos_token": False, "clean_up_tokenization_spaces": False}
    write(folder / "tokenizer_config.json", config)
    write(folder / "config.json", {"model_type": "deepseek_v3", "eos_token_id": 1})


def cohere(folder: Path) -> None:
    """Single digits, and a class that puts the start token before a text."""
    special = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>"]
    special += [f"<|{name}_TOKEN|>" for name in ("START_OF_TURN", "END_OF_TURN", "USER", "CHATBOT")]
    made = byte_pairs(special, None, normalizers.NFC())
    steps = [pre_tokenizers.Digits(individual_digits=True)]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "CohereTokenizer", "add_bos_token": True, "add_eos_token": False}
    config |= {"add_prefix_space": False, "legacy": True, "use_default_system_prompt": False}
    config |= {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}
    config |= {"pad_token": "<PAD>", "unk_token": None, "clean_up_tokenization_spaces": False}
    config["chat_template"] = [{"name": "default", "template": COHERE_TEMPLATE}]
    write(folder / "tokenizer_config.json", config)
    ids = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 8}
    write(folder / "config.json", {"model_type": "cohere", **ids})


def qwen(folder: Path) -> None:
    """Qwen's files, with added tokens that are not special, and templates by name."""
    byte_pairs([], QWEN_SPLIT, normalizers.NFC()).model.save(str(folder))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    added = [(t, True, False) for t in special]
    added += [("<think>", False, False), ("</think>", False, False), ("new_word", False, True)]
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": [
            {"name": "default", "template": CHATML_TEMPLATE},
            {"name": "tool_use", "template": "{{ tools | tojson }}" + CHATML_TEMPLATE},
        ],
        "added_tokens_decoder": {
            str(420 + i): {"content": t, "special": s, "normalized": n, **flags}
            for i, (t, s, n) in enumerate(added)
        },
    }
    write(folder / "tokenizer_config.json", config)
    write(folder / "generation_config.json", {"eos_token_id": [422, 420], "pad_token_id": 420})


def bert(folder: Path) -> None:
    words(folder, lowercase=True)
    write(folder / "config.json", {"model_type": "bert"})


def bert_cased(folder: Path) -> None:
    """A tokenizer.json that lowercases, and a configuration that does not."""
    words(folder, lowercase=False)
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("[NEW]", "new_word")])
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    write(path, {**json.loads(path.read_text()), "do_lower_case": False, "strip_accents": False})
    keep(folder, "tokenizer.json", "tokenizer_config.json")


def llama2(folder: Path) -> None:
    pieces(folder / "tokenizer.model", "bpe", 600, byte_fallback=True, **LOSSLESS)
    config = {"tokenizer_class": "LlamaTokenizer", "chat_template": LLAMA_2_TEMPLATE}
    write(folder / "tokenizer_config.json", config)


def llama2_json(folder: Path) -> None:
    """The same as tokenizer.json, not in the legacy way, and with an end."""
    llama2(folder)
    options = {"legacy": False, "add_prefix_space": True, "add_eos_token": True}
    tokenizer = transformers.LlamaTokenizerFast(
        str(folder / "tokenizer.model"), pad_token="<unk>", **options
    )
    tokenizer.save_pretrained(folder)
    keep(folder, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["add_prefix_space"]  # with it, the tokenizer.model is wanted
    write(path, config)


def gemma(folder: Path) -> None:
    symbols = ["<mask>", "\n", "\n\n", "\t", "▁▁", "▁▁▁▁", "<start_of_turn>", "<end_of_turn>"]
    pieces(
        folder / "tokenizer.model",
        "bpe",
        600,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=symbols,
        **{**LOSSLESS, "add_dummy_prefix": False},
    )
    write(folder / "config.json", {"model_type": "gemma", "eos_token_id": 1})


def t5(folder: Path) -> None:
    pieces(folder / "spiece.model", "unigram", 300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 5})
    write(folder / "config.json", {"is_encoder_decoder": True, "decoder_start_token_id": 0})


def xlm_roberta(folder: Path) -> None:
    pieces(folder / "sentencepiece.bpe.model", "unigram", 300)
    write(folder / "config.json", {"model_type": "xlm-roberta"})


def camembert(folder: Path) -> None:
    pieces(folder / "sentencepiece.bpe.model", "unigram", 300)
    write(folder / "config.json", {"model_type": "camembert"})


def mbart(folder: Path) -> None:
    pieces(folder / "sentencepiece.bpe.model", "unigram", 300)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "MBartTokenizer"})


def pegasus(folder: Path) -> None:
    pieces(folder / "spiece.model", "unigram", 300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer"})


def marian(folder: Path) -> None:
    """Two models, of which the vocabulary lacks some pieces and has further tokens."""
    for name in ("source", "target"):
        size = {"source": 230, "target": 220}[name]
        pieces(folder / f"{name}.spm", "unigram", size, character_coverage=0.98)
    both = [
        sentencepiece.SentencePieceProcessor(str(folder / f"{x}.spm")) for x in ("source", "target")
    ]
    listed = dict.fromkeys(x.id_to_piece(i) for x in both for i in range(3, len(x)) if i % 11)
    tokens = ["</s>", "<unk>", *listed, ">>fra<<", "<pad>"]
    write(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    config = {"source_lang": "eng", "target_lang": "fra", "tokenizer_class": "MarianTokenizer"}
    write(folder / "tokenizer_config.json", config)
    write(folder / "config.json", {"decoder_start_token_id": len(tokens) - 1})


def m2m100(folder: Path) -> None:
    options = {"character_coverage": 0.98, "normalization_rule_name": "identity"}
    pieces(folder / "sentencepiece.bpe.model", "bpe", 250, **options)
    model = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    listed = [model.id_to_piece(i) for i in range(3, len(model))]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *listed, "madeupword0"]
    write(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    config = {"tokenizer_class": "M2M100Tokenizer", "src_lang": "pt", "tgt_lang": "de"}
    write(folder / "tokenizer_config.json", config)
    codes = transformers.models.m2m_100.tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]
    languages = {"additional_special_tokens": [f"__{code}__" for code in codes]}
    write(folder / "special_tokens_map.json", languages)
    write(folder / "config.json", {"decoder_start_token_id": 2})


LOSSLESS = {
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}

FOLDERS: tuple[Callable[[Path], None], ...] = (
    gpt2,
    gpt2_older,
    opt,
    roberta,
    llama3,
    qwen,
    bert,
    bert_cased,
    llama2,
    llama2_json,
    gemma,
    t5,
    xlm_roberta,
    camembert,
    mbart,
    pegasus,
    marian,
    m2m100,
    deepseek,
    cohere,
)


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")


def keep(folder: Path, *names: str) -> None:
    """Remove the other files of a folder."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def expected(folder: Path) -> dict[str, Any]:
    """Return what transformers does with the hard texts and with conversations.

    Texts of byte pairs are decoded without `clean_up_tokenization_spaces`, which corrupts them, and
    which transformers 5 ignores for them.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    special = {*tokenizer.all_special_tokens}
    is_byte_pair = tokenizer.is_fast and isinstance(tokenizer.backend_tokenizer.model, models.BPE)
    options = {"clean_up_tokenization_spaces": False} if is_byte_pair else {}
    plain = [tokenizer(text, add_special_tokens=False).input_ids for text in HARD]
    decoded = [
        None
        if any(token in text for token in special)
        else tokenizer.decode(ids, skip_special_tokens=True, **options)
        for text, ids in zip(HARD, plain, strict=True)
    ]
    found: dict[str, Any] = {
        "ids": [tokenizer(text).input_ids for text in HARD],
        "plain": plain,
        "decoded": decoded,
        "vocabulary_size": 1 + max(tokenizer.get_vocab().values()),
    }
    if not tokenizer.is_fast:  # targets may have another model
        found["targets"] = [tokenizer(text_target=text).input_ids for text in HARD]
        target = [
            ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids for ids in found["targets"]
        ]
        found["decoded"] = [
            None
            if any(token in text for token in special)
            else tokenizer.decode(ids, skip_special_tokens=True)
            for text, ids in zip(HARD, target, strict=True)
        ]
    if tokenizer.chat_template:
        found["chats"] = [
            tokenizer.apply_chat_template(messages, tokenize=False, **options)
            for messages in CONVERSATIONS
            for options in chat_options()
        ]
    return found


def chat_options() -> list[dict[str, Any]]:
    return [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False, "enable_thinking": False},
        {"add_generation_prompt": True, "enable_thinking": False, "tools": TOOLS},
        {"continue_final_message": True},
    ]


def make_folders(chosen: Sequence[Callable[[Path], None]]) -> None:
    for make in chosen:
        folder = GOLDEN / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        for path in folder.glob("*.json"):
            write(path, json.loads(path.read_text("utf-8")))


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Describe what the installed transformers does otherwise, one line for each folder."""
    lines = []
    for name, old in stored.items():
        for key, values in old.items():
            new = found[name][key]
            pairs = zip(values, new, strict=True) if isinstance(values, list) else [(values, new)]
            other = [number for number, (a, b) in enumerate(pairs) if a != b]
            if other:
                lines.append(f"{name} {key}: {len(other)} other, the first is number {other[0]}")
    return lines


def stored() -> dict[str, Any]:
    """Return what is stored for each folder."""
    found: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / EXPECTED).read_bytes()))
    return found["folders"]


def main() -> None:
    names, checks = sys.argv[1:], sys.argv[1:] == ["--check"]
    chosen = [make for make in FOLDERS if checks or not names or make.__name__ in names]
    if not checks:
        make_folders(chosen)
    results = {}
    for make in chosen:
        with tempfile.TemporaryDirectory() as copy:
            folder = shutil.copytree(GOLDEN / make.__name__, f"{copy}/{make.__name__}")
            results[make.__name__] = expected(Path(folder))
    if checks:
        sys.exit("\n".join(differences(stored(), results)) or 0)
    if names:
        results = {**stored(), **results}
    about = {"texts": HARD, "conversations": CONVERSATIONS, "chat_options": chat_options()}
    content = json.dumps({**about, "folders": results}, separators=(",", ":")).encode()
    (GOLDEN / EXPECTED).write_bytes(gzip.compress(content, mtime=0))


if __name__ == "__main__":
    main()
