"""What of an address is shown: never a password, a token or a signature."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from tlkit.plan.address import Address, is_address, redacted, redacted_arguments, redacted_url
from tlkit.plan.in_memory import as_data
from tlkit.plan.job import Job

LETTERS = "abcXYZ019+/=%-_.~!$&*:@ é"


def _secret(draw: random.Random) -> str:
    return "".join(draw.choice(LETTERS) for _ in range(draw.randint(8, 40)))


def test_no_part_of_a_secret_is_in_anything_that_is_written() -> None:
    for seed in range(500):
        _check(random.Random(seed))


def _check(draw: random.Random) -> None:
    """Check one address with a user, a password and a token of any letters, all or some of them escaped."""
    user, password, token = (quote(_secret(draw), safe="+=-_.~!$*" if draw.random() < 0.5 else "") for _ in range(3))
    scheme = draw.choice(["s3", "gs", "https", "http", "hf", "ftp", "webdav"])
    given = draw.choice([f"{user}:{password}@", f"{password}@", ""])
    query = draw.choice([f"?X-Amz-Signature={token}&b=1", f"?{token}", f"#{token}", ""])
    url = f"{scheme}://{given}host-1.example:9000/bucket/a b/set.zip{query}"
    address = as_data(url)
    assert isinstance(address, Address) and address.secret == url
    job = Job.given(url, {})
    said = address.scrub(f"403 for {url!r}: <{url}> refused {token} or {unquote(token)} and {password}")
    written = [str(address), repr(address), f"{address}", repr(job), json.dumps(job.to_dict()), said, address.name]
    written += redacted_arguments(["finetune", url, f"--data={url}"])
    for text in written:
        assert not (given and password in text), text
        assert not (query and (token in text or unquote(token) in text)), text
    assert "host-1.example:9000/bucket/a b/set.zip" in str(address)


def test_a_password_with_a_slash_and_a_signed_url_without_a_path_are_hidden() -> None:
    assert redacted_url("s3://key:sec/ret@bucket/x") == "s3://bucket/x"
    assert redacted_url("https://host?sig=1") == "https://host"
    assert "hunter22" not in Address("https://me:hunter22@host").scrub("wrong password: hunter22")


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    assert redacted("the key wJalrXUtnFEMI is wrong") == "the key ... is wrong"


def test_an_address_comes_back_from_a_plan_and_is_the_same_job() -> None:
    job = Job.given("https://me:pass@host/birds.zip?sig=1", {})
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert again.data == job.data and again == job and str(again.data) == "https://host/birds.zip"
    assert dataclasses.replace(again, seed=1) != job


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_data(f"file://{quote(str(tmp_path / 'a b'))}") == tmp_path / "a b"
    for one in ("birds", "C:\\birds", "c:/birds", "./hf:x", "a:b"):
        assert not is_address(one) and isinstance(as_data(one), Path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:me").mkdir()
    assert as_data("hf:me") == Path("hf:me") and isinstance(as_data("hf:you"), Address)
    assert str(Address("tfrecord:data").absolute()) == f"tfrecord:{tmp_path / 'data'}"
