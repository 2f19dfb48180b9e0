"""Bad input of every command: a single line and exit code 2."""

import re

import pytest
from command_line import SHORT, TINY, run, shell

from functional_models.cli import main

TRAIN = ["train", "--to", "{out}", *TINY, *SHORT]
DECODER = [*TRAIN, "--kind", "decoder_only"]

BAD = [
    (["inspect", "gpt3"], "unknown variant 'gpt3'"),
    (["plot", "gpt3"], "unknown variant 'gpt3'"),
    (["plot", "nowhere"], "nor is there a file or folder nowhere"),
    (["compare", "gpt3"], "unknown variant 'gpt3'"),
    (["train", "--to", "{out}", "--variant", "gpt3"], "unknown variant 'gpt3'"),
    (
        ["train", "--to", "{out}", *TINY, "--data", "{text.txt}", "--vocabulary-size", "-5"],
        "vocabulary_size=-5: must be an integer, 1 or more",
    ),
    (
        ["train", "--to", "{out}", *TINY, "--data", "{text.txt}", "--vocabulary-size", "300"],
        "a byte tokenizer has 256 ids",
    ),
    ([*TRAIN, "--set", "vocabulary_size=97"], "use --vocabulary-size 97"),
    (["compare", "--set", "vocabulary_size=97"], "use --vocabulary-size 97"),
    (["inspect", "gpt2_small", "--set", "width=3"], "unknown spec field 'width'"),
    (["inspect", "gpt2_small", "--set", "positions=spiral"], "unknown positions 'spiral'"),
    (["inspect", "gpt2_small", "--set", "num_layers"], "must be FIELD=VALUE"),
    (["inspect", "gpt2_small", "--set", "=3"], "must be FIELD=VALUE"),
    (["inspect", "gpt2"], "(did you mean 'gpt2_small', 'gpt2_medium', 'gpt2_large' or 'gpt2_xl'?)"),
    (["inspect", "gpt2_small", "--set", "num_layers=two"], "num_layers='two': must be a positive"),
    (["inspect", "gpt2_small", "--set", "dropout=NaN"], "dropout=nan: must be a probability"),
    (["inspect", "gpt2_small", "--set", "num_heads=7"], "a multiple of num_heads=7"),
    (["inspect", "{nothing}"], "has no model.json"),
    (["inspect", "{nothing/model}"], "no file or folder"),
    (["inspect", "{text.txt}"], "text.txt is not a model: give a variant or a model folder"),
    (["inspect", "nowhere"], "nor is there a file or folder nowhere"),
    (["plot", "{text.txt}"], "text.txt is not a model: give a variant, a model folder, a .keras"),
    (["import", "{nothing}", "--to", "{out}"], "nothing has no config.json; give the folder of"),
    (["import", "{nowhere}", "--to", "{out}"], "nowhere nor a preset of KerasHub of this name"),
    (["import", "{text.txt}", "--to", "{out}"], "text.txt is a file; give the folder that has it"),
    (["compare", "--to", "{text.txt}", "--data", "{pairs.tsv}", *TINY], "is a file; give the"),
    ([*TRAIN, "--data", "{nowhere.txt}"], "there is no file"),
    ([*TRAIN, "--data", "{empty.txt}"], "empty.txt has no text"),
    ([*TRAIN, "--data", "{latin.txt}"], "latin.txt is not UTF-8: byte 0xe3 at offset 1"),
    ([*TRAIN, "--data", "{three.pt}", "{two.en}"], "has 3 lines and"),
    ([*DECODER, "--data", "{three.pt}", "{two.en}"], "to train on text, give one file"),
    ([*DECODER, "--data", "{columns.tsv}"], "columns.tsv, line 2: 3 columns, expected 2"),
    ([*DECODER, "--data", "{long.tsv}"], "1 examples have more than 19 tokens in prompt and reply"),
    ([*DECODER, "--data", "{pairs.tsv}", "--sample", "x" * 30], "prompt 'xxx"),
    (["evaluate", "{lm}", "--data", "{long.tsv}"], "3 examples have more than 19 tokens in prompt"),
    (
        ["compare", "--kind", "decoder_only", "--to", "{out}", "--data", "{pairs.tsv}"],
        "compare trains language models on text, and",
    ),
    ([*TRAIN, "--data", "a", "b", "c"], "--data was given 3 files"),
    ([*TRAIN, "--data", "{short.txt}"], "tokens, fewer than a block of 19"),
    ([*TRAIN, "--data", "{text.txt}", "--steps", "0"], "steps=0: must be 1 or more"),
    ([*TRAIN, "--data", "{text.txt}", "--schedule", "linear"], "schedule='linear'"),
    ([*TRAIN, "--data", "{text.txt}", "--learning-rate", "nan"], "learning_rate=nan"),
    ([*TRAIN, "--data", "{text.txt}", "--sample", "x" * 30], "prompt 'xxx"),
    (["train", "--to", "{text.txt}", *TINY, "--data", "{text.txt}"], "is a file; give the path"),
    (["evaluate", "{nowhere}"], "there is no model folder"),
    (["evaluate", "{half}", "--data", "{text.txt}"], "is incomplete"),
    (["generate", "{nothing}", "fox"], "has no model.json"),
    (["generate", "{newer}", "fox"], "has format 2, this version reads format 1"),
    (["generate", "{translator}", "fox"], "use functional-models translate"),
    (["generate", "{lm}", ""], "prompt '' has no tokens"),
    (["generate", "{lm}", "x" * 20], "has 20 tokens and max_sequence_length is 19"),
    (["generate", "{lm}", "fox", "--temperature", "0"], "temperature=0.0: must be above 0"),
    (["generate", "{lm}", "fox", "--sampler", "beam", "--stream"], "compares whole sequences"),
    (["generate", "{lm}", "", "--stream"], "prompt '' has no tokens"),
    (["generate", "{lm}", "fox", "--stream", "--scores"], "omit --scores"),
    (
        ["generate", "{lm}", "fox", "--sampler", "greedy", "--temperature", "2"],
        "--temperature is an option of top_k and top_p and random and contrastive and beam",
    ),
    ([*DECODER, "--data", "{column.tsv}"], "column.tsv, line 2: 1 column, expected 2"),
    (["generate", "{lm}", "fox", "--stop", "ab"], "stop token 'ab' is 2 tokens"),
    (["generate", "{lm}", "fox", "--min-p", "1"], "min_p=1.0: must be at least 0 and below 1"),
    (["generate", "{lm}", "fox", "--alpha", ".3"], "--alpha is an option of contrastive, and the"),
    (["generate", "{lm}", "fox", "--seed", "1e26"], "seed=100000000000000000000000000: must be"),
    ([*TRAIN, "--data", "{text.txt}", "--seed", "1e26"], "seed=100000000000000000000000000: must"),
    (["train", "--to", "{out}", "--kind", "encoder_only", "--sample", "a"], "continues no text"),
    (["compare", "--to", "{out}", "--kind", "encoder_only"], "compare trains language models"),
    (["compare", "gpt1", "gpt1", "--to", "{out}"], "gpt1 was given twice"),
    (
        ["generate", "{lm}", "fox", "--sampler", "contrastive", "--alpha", "2"],
        "alpha=2.0: must be 0 to 1",
    ),
    (
        ["translate", "{translator}", "um", "--num-return-sequences", "2"],
        "num_return_sequences=2: must be 1 with sampler 'greedy'",
    ),
    (
        ["translate", "{translator}", "um", "--repetition-penalty", "0"],
        "repetition_penalty=0.0: must be above 0",
    ),
    (
        ["translate", "{translator}", "um", "--sampler", "beam", "--length-penalty", "-1"],
        "length_penalty=-1.0: must be 0 to 10",
    ),
    (["translate", "{lm}", "um"], "use functional-models generate"),
    (["translate", "{translator}", "x" * 20], "more than 19 tokens"),
    (["plot", "{nowhere.keras}"], "no file"),
    (["plot", "{pipe.keras}"], "pipe.keras is a pipe; give the path of a file"),
    (["diagnose", "{pipe.json}"], "pipe.json is a pipe; give the path of a file"),
    (["diff", "{lm}", "{pipe.json}"], "pipe.json is a pipe; give the path of a file"),
    (["inspect", "/dev/zero"], "/dev/zero is not a model"),
    (["inspect", "gpt1", "--set", "num_layers=99999999999"], "a positive int of at most 10,000"),
    (["inspect", "gpt1", "--set", "dropout=" + "[" * 9999], "dropout='[[[["),
    ([*TRAIN, "--data", "{text.txt}", "--batch-size", "2147483647"], "reduce batch_size"),
    ([*TRAIN, "--data", "{text.txt}", "--batch-size", "99999999999"], "must be at most 2,147,483"),
    ([*TRAIN, "--data", "{text.txt}", "--steps", "9" * 20], "must be at most 2,147,483,647"),
    ([*TRAIN, "--data", "{text.txt}", "--set", "num_layers=2.0"], "of at most 10,000; write 2"),
    (
        [*TRAIN, "--data", "{text.txt}", "--set", "hidden_dim=4000000"],
        "weights of at least",
    ),
    (["train", "--to", "", *TINY], "the name of the folder is empty"),
    (["train", "--to", "{lm}", *TINY, "--data", "{text.txt}"], "lm holds a model (model.json);"),
    (["train", "--to", "{lm/x}", *TINY, "--data", "{text.txt}"], "lies inside the model folder"),
    (["import", "{nothing}", "--to", "{lm}"], "(--overwrite)"),
    (["compare", "--to", "{lm}", "--data", "{pairs.tsv}", *TINY], "lm holds a model (model.json)"),
    (["compare", "--to", " ", "--data", "{pairs.tsv}", *TINY], "the name of the folder is empty"),
    (["export", "{lm}", "--to", "{lm}"], "has content that no earlier export wrote"),
    (["plot", "{lm}", "--to", "{lm/model.json}"], "is not a picture of this kind"),
    (["translate", "{translator}", "um", "--p", "0.5"], "--p is an option of top_p, and the sampl"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a)[:60] for a, _ in BAD])
def test_bad_input_exits_with_code_2_and_one_line(files, capsys, arguments, message):
    assert run(arguments, files) == 2
    printed, error = capsys.readouterr()
    assert error.startswith("functional-models: ")
    assert arguments[0] == "train" or not printed
    assert message in error
    assert error.count("\n") == 1
    assert not (files / "out" / "model.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train"],
        ["inspect", "gpt2_small", "--dtype", "float8"],
        ["generate", "{lm}", "fox", "--sampler", "nucleus"],
        ["train", "--to", "x", "--steps", "many"],
        ["train", "--to", "x", "--seed", "3.5"],
        ["train", "--to", "x", "--learning-rate", "3e"],
        ["train", "--to", "x", "--tokenizer", "letters"],
    ],
)
def test_an_invalid_command_line_exits_with_code_2_and_one_line(files, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(arguments, files)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("functional-models")
    assert re.search(r"; see functional-models( \w+)? --help\n$", error)
    assert error.count("\n") == 1


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    printed, error = capsys.readouterr()
    assert not printed
    assert "train a model on text" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verson"], "unknown option '--verson' (did you mean '--version'?)"),
        (["insepct", "gpt2_small"], "unknown choice 'insepct' (did you mean 'inspect'?); allowed"),
        (["inspect", "gpt2_small", "--laers"], "unknown option '--laers' (did you mean '--layers'"),
        (["inspect", "gpt2_small", "gpt1"], "unexpected argument 'gpt1'"),
        (["variants", "--kind", "decoder"], "unknown choice 'decoder' (did you mean 'decoder_o"),
        (["inspect", "gpt2_small", "--num-layers", "3"], "write --set num_layers=VALUE"),
        (["inspect", "gpt2_small", "--set", "dropout=.1", "num_layers=3"], "write --set num_layer"),
        (["generate", "lm", "x", "--top-p", "0.9"], "unknown option '--top-p' (did you mean '--p'"),
        (["train", "--data", "book.txt"], "required: --to, e.g. functional-models train --data"),
    ],
)
def test_a_misspelt_name_on_the_command_line_gets_the_closest_one(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    is_of_command = arguments[0] in error.partition(":")[0]
    assert is_of_command == (arguments[0] not in ("insepct", "--verson"))


@pytest.mark.parametrize("place", [0, 2])
def test_debug_raises_the_error(files, place):
    arguments = ["inspect", "gpt3"]
    arguments.insert(place, "--debug")
    with pytest.raises(ValueError, match="unknown variant 'gpt3'"):
        run(arguments, files)


def test_errors_in_the_shell_are_one_line_or_a_traceback_with_debug():
    command = ["-m", "functional_models", "inspect", "gpt3"]
    found = shell(*command)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    found = shell(*command, "--debug")
    assert found.returncode == 1
    assert "Traceback" in found.stderr
