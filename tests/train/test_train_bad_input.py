"""Wrong usage and bad input: one clear line, the right exit code, nothing written."""

import shutil
from pathlib import Path

import pytest

from thrifty.core.errors import DataError, ModelError, ThriftyError, UsageError
from thrifty.train import TrainConfig, run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be a whole number of at least 1, not 0"),
        ({"batch_size": -3}, "--batch-size"),
        ({"epochs": 0}, "--epochs must be a whole number of at least 1"),
        ({"epochs": 1.5}, "--epochs"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a finite number above 0, not nan"),
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"learning_rate": -0.1}, "--learning-rate"),
        ({"learning_rate": True}, "--learning-rate"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"momentum": 1.0}, "--momentum"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
        ({"seed": -1}, "--seed"),
        ({"limit_train": 0}, "--limit-train"),
        ({"limit_test": 0}, "--limit-test"),
        ({"limit_steps": 0}, "--limit-steps"),
        ({"image_size": 0}, "--image-size"),
        ({"checkpoint_every": 0}, "--checkpoint-every"),
        ({"threads": 0}, "--threads"),
        ({"model": "vgg18"}, "unknown model 'vgg18' .*vgg19"),
        ({"optimizer": "adam"}, "unknown --optimizer 'adam'; choose one of sgd, adamw, lars, lamb"),
        ({"schedule": "linear"}, "unknown --schedule 'linear'; choose one of one-cycle, cosine, step, poly"),
        ({"amp": "fp16"}, "unknown --amp 'fp16'"),
        ({"wire": "fp8"}, "unknown --wire 'fp8'; choose one of fp32, bf16, fp16"),
        ({"warm_up": 1.0}, "--warm-up must be at least 0 and below 1"),
        ({"worker_timeout": 0}, "--worker-timeout"),
        ({"baseline": "sparse"}, "unknown --baseline 'sparse'"),
        ({"data": ""}, "--data is empty"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite exclude each other"),
    ],
)
def test_settings_are_checked_when_they_are_made(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"methods": "resue"}, UsageError, "unknown method 'resue'; known: lsh, merge, reuse"),
        ({"methods": "reuse,reuse"}, UsageError, "the arm reuse is named twice"),
        ({"methods": "reuse+reuse"}, UsageError, "reuse is listed twice"),
        ({"methods": "reuse@fp8"}, UsageError, "unknown precision 'fp8'"),
        ({"methods": "none", "baseline": "none"}, UsageError, "nothing to train"),
        ({"settings": ("reuse.length=8",)}, UsageError, "no arm uses reuse"),
        (
            {"methods": "reuse", "settings": ("reuse.lenght=8",)},
            UsageError,
            "no field 'lenght'; its fields are: stages",
        ),
        ({"methods": "reuse", "settings": ("reuse.patience=much",)}, UsageError, "Reuse.patience: expected int"),
        ({"methods": "reuse", "settings": ("reuse.patience=0",)}, UsageError, "Reuse.patience must be at least 1"),
        ({"methods": "reuse", "settings": ("patience=8",)}, UsageError, "write it as method.key=value"),
        ({"data": "no-such-set"}, ThriftyError, "no-such-set"),
        ({"model": "vgg19"}, ModelError, "vgg19 needs images of at least 32 x 32 px, not 8 x 8"),
        ({"model": "tiny_nets:absent"}, UsageError, "tiny_nets has no 'absent'"),
        ({"model": "tiny_nets:raises"}, ModelError, "failed with ValueError"),
        ({"model": "tiny_nets:fails_in_forward"}, ModelError, r"fails on images of shape \(3, 8, 8\): RuntimeError"),
        ({"model": "torch.nn:Identity"}, ModelError, r"it must return logits of shape \(2, 3\)"),
    ],
)
def test_a_run_that_cannot_begin_writes_nothing(config, settings, error, message):
    asked = config("run", **settings)
    with pytest.raises(error, match=message) as caught:
        run(asked)
    assert "\n" not in str(caught.value)
    assert not Path(asked.out).exists()


def test_damaged_image_is_told_by_name(config, image_folder, tmp_path):
    damaged = shutil.copytree(image_folder, tmp_path / "damaged")
    image = next((damaged / "train" / "class1").iterdir())
    image.write_bytes(image.read_bytes()[:20])
    with pytest.raises(DataError, match=image.name):
        run(config("run", data=str(damaged)))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_in_it_is_left_alone(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty: go on with --resume, replace it with --overwrite"):
        run(config("run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
    assert run(config("run", epochs=1, overwrite=True)).exit_code == 0
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"
    assert run(config("run", epochs=2, overwrite=True)).record["arms"][0]["steps"] == 14


def test_an_existing_run_survives_an_overwrite_that_cannot_begin(config, tmp_path):
    assert run(config("run", epochs=1)).exit_code == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    with pytest.raises(ThriftyError):
        run(config("run", data="no-such-set", overwrite=True))
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert (tmp_path / "run" / "checkpoints" / "dense" / "last.pt").exists()


def test_out_that_is_a_file(config, tmp_path):
    (tmp_path / "run").write_text("a file")
    for more in ({}, {"overwrite": True}):
        with pytest.raises(UsageError, match="is a file: name a folder"):
            run(config("run", **more))
    assert (tmp_path / "run").read_text() == "a file"


def test_two_processes_do_not_train_into_one_folder(config, tmp_path):
    from thrifty.train.folder import locked

    with locked(tmp_path / "run"), pytest.raises(UsageError, match="another process is training"):
        run(config("run"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--batch-size", "0"), 2, "--batch-size must be a whole number"),
        (("--model", "alexnet"), 1, "at least 63 x 63 px"),
        (("--epochs", "many"), 2, "--epochs"),
    ],
)
def test_command_line_says_one_line_and_leaves_with_the_code(thrifty, image_folder, tmp_path, words, code, message):
    out = tmp_path / "run"
    done = thrifty("train", "--data", str(image_folder), "--out", str(out), "--methods", "none", *words)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not out.exists()


def test_command_line_trains_and_shows_the_table_and_the_report(thrifty, image_folder, tmp_path):
    out = tmp_path / "run"
    small = ("--batch-size", "8", "--epochs", "1", "--set", 'reuse.stages=[{"length":8,"bits":4}]')
    done = thrifty(
        "train",
        "--model",
        "tiny_nets:net",
        "--data",
        str(image_folder),
        "--out",
        str(out),
        "--methods",
        "reuse",
        *small,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sum(line.split()[:2] in (["dense", "1/1"], ["reuse", "1/1"]) for line in done.stdout.splitlines()) == 2
    assert "against dense" in done.stdout and f"report: {out / 'report.html'}" in done.stdout
    assert (out / "report.html").is_file()


def test_command_line_tells_of_a_stopped_arm_by_its_code(thrifty, image_folder, tmp_path):
    words = ("--model", "tiny_nets:turns_bad", "--methods", "none", "--batch-size", "8", "--out", str(tmp_path / "run"))
    done = thrifty("train", "--data", str(image_folder), *words)
    assert done.returncode == 1 and "the loss of step 7 is nan" in done.stdout
