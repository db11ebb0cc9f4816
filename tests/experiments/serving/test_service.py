"""The service answers as `translate` does, whatever comes at the same time, and whatever is sent."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

import jax
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import experiments.cli.main
from data import grammar
from data.tokenizer import Tokenizer, train_tokenizer
from experiments.cli import verbs
from experiments.cli.main import main
from experiments.programs import batches, shapes
from experiments.sentences import Translation, as_json
from experiments.serving import application
from experiments.serving.application import MOST_BYTES
from experiments.serving.batching import Batcher, NotReadyError, QueueFullError, Wanted, few_heights
from experiments.serving.service import Service
from experiments.translator import Translator
from transformer.config import DataConfig, DecodeConfig, Experiment, ModelConfig, UserError
from transformer.train import init_params

JSON = {"Content-Type": "application/json"}


PAIRS = list(grammar.pairs("train", 200))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.model"
    return train_tokenizer([line for pair in PAIRS for line in pair], path, "bpe", 200)


@pytest.fixture(scope="module")
def sentences(tokenizer) -> list[str]:
    """Sentences of one padded width."""
    return [english for english, _ in PAIRS if len(tokenizer.encode([english])[0]) <= 16][:25]


@pytest.fixture(scope="module")
def translator(tokenizer) -> Translator:
    """A model that has learned nothing, but whose large parameters let outputs depend on the sentence."""
    model = ModelConfig(vocab_size=200, num_layers=1, d_model=32, d_ff=64, num_heads=2, d_k=16, d_v=16)
    decode = DecodeConfig(beam=3, batch_size=2, extra_length=8)
    experiment = Experiment("micro", model=model, data=DataConfig(vocab_size=200, max_length=40), decode=decode)
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(model, 0))
    translator = Translator(params, experiment, tokenizer, log=lambda line: None)
    translator.max_tokens, translator.steps = 60, [7]
    return translator


@pytest.fixture(scope="module")
def alone(translator, sentences) -> dict[str, list[Translation]]:
    """The translations of each sentence, as the command finds them. They differ, so that none is taken for another."""
    found = dict(zip(sentences, translator.n_best(sentences, 3), strict=True))
    assert len({best[0].text for best in found.values()}) > 20
    return found


@contextmanager
def serving(translator, **options) -> Iterator[Service]:
    """A service that is ready, in a thread; it has ended afterwards."""
    service = Service(translator, "micro", **{"longest": 16, **options})
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    try:
        assert service.batcher.ready.wait(60)
        yield service
    finally:
        service.stop()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def service(translator) -> Iterator[Service]:
    with serving(translator, max_sentences=8) as service:
        yield service


def ask(service, body=None, path="/translate", headers=JSON, method="") -> tuple[int, dict, dict]:
    """Sends a request; returns status, JSON and headers of the answer."""
    connection = http.client.HTTPConnection(service.address.removeprefix("http://"), timeout=60)
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, sent, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response.status, json.loads(answer), dict(response.headers)


def texts_of(answer) -> list[list[str]]:
    return [[one["text"] for one in result["translations"]] for result in answer["results"]]


def assert_same(answer, expected):
    """The JSON of translations, with scores up to rounding: they come from batches of other sizes."""
    for result, best in zip(answer["results"], expected, strict=True):
        found, wanted = result["translations"], [as_json(one) for one in best]
        assert [one | {"score": 0} for one in found] == [one | {"score": 0} for one in wanted]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-4)


def test_the_answers_are_those_of_translate(service, translator, sentences, alone):
    for n_best in (1, 3):
        status, answer, _ = ask(service, {"texts": sentences[:8], "n_best": n_best})
        assert status == 200 and [result["line"] for result in answer["results"]] == list(range(1, 9))
        assert_same(answer, [alone[text][:n_best] for text in sentences[:8]])
    assert ask(service, {"text": sentences[3]})[1]["results"] == ask(service, {"texts": [sentences[3]]})[1]["results"]
    prefixes = ["Das ", ""]
    _, answer, _ = ask(service, {"texts": sentences[:2], "prefixes": prefixes, "n_best": 2})
    assert_same(answer, translator.n_best(sentences[:2], 2, prefixes=prefixes))
    assert all(text.startswith("Das") for text in texts_of(answer)[0])


def test_of_a_hundred_requests_at_once_none_is_lost_or_changed(service, sentences, alone):
    wanted = [([sentences[i % 25], sentences[i * 7 % 25]][: 1 + i % 2], 1 + i // 2 % 3) for i in range(100)]
    with Held(service.batcher) as held, ThreadPoolExecutor(50) as clients:
        held.released.set()
        answers = list(clients.map(lambda one: ask(service, {"texts": one[0], "n_best": one[1]}), wanted))
    heights = [len(texts) for texts in held.batches]
    assert {status for status, *_ in answers} == {200}
    for (texts, n_best), (_, answer, _) in zip(wanted, answers, strict=True):
        assert_same(answer, [alone[text][:n_best] for text in texts])
    assert sum(heights) == 150 and max(heights) == 2 and len(heights) < 100  # they were translated together


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON"),
        (b'{"text": "a"', "is not JSON"),
        (b'{"text": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"text": "a", "n_best": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (["a"], "not a JSON object"),
        ({}, 'either "text"'),
        ({"text": "a", "texts": ["a"]}, 'either "text"'),
        ({"text": ["a"]}, '"text" must be a string'),
        ({"text": None}, '"text" must be a string'),
        ({"texts": "a"}, '"texts" must be a list of strings'),
        ({"texts": ["a", 3]}, '"texts" must be a list of strings'),
        ({"texts": []}, "is empty"),
        ({"texts": ["a"] * 9}, "the limit is 8"),
        ({"texts": ["a", " \u200b"]}, "line 2 is blank"),
        ({"text": "\ud800"}, "line 1 cannot be encoded as UTF-8"),
        ({"texts": ["a", "a b " * 40]}, "line 2 has .* tokens; the limit is 60"),
        ({"text": "a", "n_best": 4}, '"n_best" must be from 1 to 3, not 4'),
        ({"text": "a", "n_best": 0}, '"n_best" must be from 1 to 3'),
        ({"text": "a", "n_best": True}, '"n_best" must be a whole number'),
        ({"text": "a", "n_best": 1.0}, '"n_best" must be a whole number'),
        ({"text": "a", "nbest": 1}, "no field 'nbest'; the fields are: text, texts"),
        ({"text": "a", "prefixes": ["b"]}, "'prefixes' does not fit"),
        ({"texts": ["a"], "prefixes": ["b", "c"]}, "1 line but 2 prefixes"),
        ({"text": "a", "prefix": "b " * 30}, "prefix line 1 has"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(service, body, message):
    status, answer, _ = ask(service, body)
    assert status == 400 and list(answer) == ["error"] and "\n" not in answer["error"]
    with pytest.raises(UserError, match=message):
        raise UserError(answer["error"])


def test_another_address_method_or_type_of_content_is_refused(service):
    assert ask(service, path="/nowhere")[0] == 404
    status, answer, headers = ask(service)
    assert status == 405 and answer["error"] and headers["allow"] == "POST"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; application/json"):
        status, answer, _ = ask(service, {"text": "a"}, headers={"Content-Type": kind})
        assert status == 415 and "application/json" in answer["error"]  # so no page of another site can send this
    assert ask(service, {"text": "a"}, headers={"Content-Type": "application/json; charset=utf-8"})[0] == 200


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 400),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", 400),
        (b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ],
)
def test_every_refusal_is_json(service, request_, expected):
    with socket.create_connection(service.socket.getsockname(), timeout=60) as connection:
        connection.sendall(request_)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert (response.status, response.headers["content-type"]) == (expected, "application/json")
        assert list(json.loads(response.read())) == ["error"]
    assert ask(service, path="/health")[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(service, chunked):
    body = b'{"text": "' + b"a" * MOST_BYTES
    if chunked:
        status, answer = sent(service, b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(body), body))
    else:
        status, answer = sent(service, b"Content-Length: %d" % len(body), body)
    assert status == 413 and "1,048,576 bytes" in answer["error"]


def sent(service, header: bytes, body: bytes) -> tuple[int, dict]:
    """Sends a body as it is, and returns status and JSON of the answer."""
    with socket.create_connection(service.socket.getsockname(), timeout=60) as connection:
        host = service.address.removeprefix("http://").encode()
        head = [b"POST /translate HTTP/1.1", b"Host: " + host, b"Content-Type: application/json", header, b"", b""]
        connection.sendall(b"\r\n".join(head) + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.loads(response.read())


def test_only_the_names_of_this_machine_are_answered(service, translator):
    own = service.address.removeprefix("http://")
    port = own.rpartition(":")[2]
    for host, expected in ((own, 200), (f"localhost:{port}", 200), (f"[::1]:{port}", 200), ("a.example", 400)):
        for path in ("/", "/health", "/translate"):
            connection = http.client.HTTPConnection(own, timeout=60)
            connection.request("POST" if path == "/translate" else "GET", path, '{"text": "a"}', JSON | {"Host": host})
            response = connection.getresponse()
            assert response.status == expected
            assert "access-control-allow-origin" not in {name.lower() for name in response.headers}
            connection.close()
    assert Service(translator, "micro", "0.0.0.0").server.config.app.user_middleware[0].kwargs["hosts"] == ("*",)


def test_a_warning_belongs_to_its_request(service, sentences):
    with ThreadPoolExecutor(2) as clients:
        odd, fine = clients.map(lambda text: ask(service, {"texts": [sentences[0], text]}), ["A 漢 dog.", sentences[1]])
    assert any("line 2 has characters that are not in the vocabulary" in said for said in odd[1]["warnings"])
    assert not any("vocabulary" in said or "line 3" in said for said in fine[1]["warnings"])
    for _, answer, _ in (odd, fine):
        cut = [said for said in answer["warnings"] if "cut off" in said]
        assert cut == [f"line {line}: its translation was cut off at the length limit" for line in (1, 2)]


def test_health_says_what_answers(service):
    status, health, _ = ask(service, path="/health")
    assert status == 200 and health["ready"] and health["queue"] == 0
    assert (health["model"], health["steps"]) == ("micro", service.batcher.translator.steps)


class Held:
    """Holds the searches of a batcher until they are released, and notes what each of them translates."""

    def __init__(self, batcher: Batcher):
        self.begun, self.released, self.batches = threading.Event(), threading.Event(), []
        self.translator, self.answer = batcher.translator, batcher.translator.answer

    def __enter__(self):
        self.translator.answer = self.search
        return self

    def search(self, asked, *rest):
        self.batches.append(asked.texts)
        self.begun.set()
        assert self.released.wait(60)
        return self.answer(asked, *rest)

    def __exit__(self, *_):
        self.released.set()
        del self.translator.answer


@contextmanager
def running(translator, max_queue: int) -> Iterator[Batcher]:
    """A batcher with its thread, without a server."""
    batcher = Batcher(translator, 0.0, max_queue)
    thread = threading.Thread(target=batcher.run, args=(1, lambda: None), daemon=True)
    thread.start()
    try:
        assert batcher.ready.wait(60)
        yield batcher
    finally:
        batcher.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_a_full_queue_is_refused_and_nothing_in_it_is_lost(translator, sentences, alone):
    with running(translator, max_queue=6) as batcher, Held(batcher) as held:
        first = batcher.submit(Wanted(sentences[:2]))
        assert held.begun.wait(60)
        later = [batcher.submit(Wanted(sentences[i:j])) for i, j in ((2, 3), (3, 4), (4, 6), (6, 8))]
        with pytest.raises(QueueFullError, match="6 sentences wait already"):
            batcher.submit(Wanted(sentences[:1]))
        held.released.set()
        found = [best[0].text for future in (first, *later) for best in future.result(60).translations]
    assert found == [alone[text][0].text for text in sentences[:8]]
    assert held.batches == [sentences[i : i + 2] for i in (0, 2, 4, 6)]  # as many as fit, in their order
    with pytest.raises(NotReadyError):
        batcher.submit(Wanted(sentences[:1]))


def test_a_request_waits_for_others_but_not_for_ever(translator, sentences):
    with running(translator, max_queue=9) as batcher, Held(batcher) as held:
        held.released.set()
        batcher.wait = 3600.0
        futures = [batcher.submit(Wanted([text])) for text in sentences[:2]]  # a full batch need not wait
        wait(futures, 60)
        batcher.wait = 0.2
        batcher.submit(Wanted(sentences[2:3])).result(60)
    assert held.batches == [sentences[:2], sentences[2:3]]


def test_429_says_when_to_come_back(translator, sentences):
    with serving(translator, max_queue=1) as service, Held(service.batcher) as held, ThreadPoolExecutor(2) as clients:
        first = clients.submit(ask, service, {"text": sentences[0]})
        assert held.begun.wait(60)
        second = clients.submit(ask, service, {"text": sentences[1]})
        until(lambda: service.batcher.waiting == 1)
        status, answer, headers = ask(service, {"text": sentences[2]})
        assert (status, headers["retry-after"]) == (429, "1") and "1 sentence wait" in answer["error"]
        assert ask(service, path="/health")[1]["queue"] == 1
        held.released.set()
        assert first.result()[0] == second.result()[0] == 200


def until(condition) -> None:
    """Waits until something happens in another thread."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_request_that_fails_does_not_fail_its_neighbours(translator, sentences, alone):
    def failing(asked, *rest):
        found = held.search(asked, *rest)
        if sentences[1] in asked.texts:
            raise RuntimeError("RESOURCE_EXHAUSTED")
        return found

    with running(translator, max_queue=9) as batcher, Held(batcher) as held:
        batcher.translator.answer = failing
        blocked = batcher.submit(Wanted([sentences[5]]))
        assert held.begun.wait(60)
        futures = [batcher.submit(Wanted([text])) for text in (*sentences[:3], "a b " * 40)]
        held.released.set()
        wait([blocked, *futures], 60)
    assert [type(future.exception(0)) for future in futures] == [type(None), RuntimeError, type(None), UserError]
    for i in (0, 2):
        assert futures[i].result().translations[0][0].text == alone[sentences[i]][0].text


def test_a_failure_is_told_and_the_service_goes_on(service, sentences, monkeypatch):
    with Held(service.batcher) as held:
        held.answer = lambda *_: 1 / 0
        held.released.set()
        status, answer, _ = ask(service, {"text": sentences[0]})
    assert status == 500 and "division by zero" in answer["error"]
    assert ask(service, {"text": sentences[0]})[0] == 200


def post(service, body: dict) -> socket.socket:
    """Sends a request, and returns the connection."""
    connection = socket.create_connection(service.socket.getsockname(), timeout=60)
    content = json.dumps(body).encode()
    head = "POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def test_a_client_that_hangs_up_takes_its_request_back(service, sentences):
    batcher = service.batcher
    with Held(batcher) as held, ThreadPoolExecutor(2) as clients:
        in_search, other = post(service, {"text": sentences[0]}), None
        assert held.begun.wait(60)
        in_search.close()  # its translation is lost, and nothing else
        left = post(service, {"text": sentences[1]})
        until(lambda: batcher.waiting == 1)
        other = clients.submit(ask, service, {"text": sentences[2]})
        until(lambda: batcher.waiting == 2)
        future = batcher._jobs[0].answer
        left.close()
        until(future.cancelled)
        held.released.set()
        assert other.result()[0] == 200
    assert held.batches == [[sentences[0]], [sentences[2]]]


def test_a_client_that_hangs_up_while_it_sends_is_forgotten(service, sentences, caplog):
    with socket.create_connection(service.socket.getsockname(), timeout=60) as connection:
        connection.sendall(
            b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
    assert ask(service, {"text": sentences[0]})[0] == 200
    until(lambda: not service.server.server_state.tasks)
    assert not caplog.records


def test_before_it_is_ready_it_says_so(translator):
    service = Service(translator, "micro")
    compiling, compiled = threading.Event(), threading.Event()

    def warm_up(*_):
        compiling.set()
        assert compiled.wait(60)

    service.batcher.warm_up = warm_up
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    try:
        assert compiling.wait(60)
        status, health, _ = ask(service, path="/health")
        assert status == 503 and not health["ready"]
        status, answer, headers = ask(service, {"text": "A dog."})
        assert status == 503 and "not ready" in answer["error"] and headers["retry-after"]
    finally:
        service.stop()
        compiled.set()
        thread.join(60)
    assert not thread.is_alive() and not service.batcher.ready.is_set()


def test_a_model_that_cannot_be_compiled_ends_the_service(translator):
    service = Service(translator, "micro")
    service.batcher.warm_up = lambda longest: 1 / 0
    with pytest.raises(ZeroDivisionError):
        service.run()


def test_an_address_that_is_taken_is_refused(service, translator):
    port = service.socket.getsockname()[1]
    for host, number in (("127.0.0.1", port), ("no.such.host.invalid", 0), ("127.0.0.1", 70000)):
        with pytest.raises(UserError, match=r"cannot listen at .* choose another --host or --port"):
            Service(translator, "micro", host, number)


def test_what_is_compiled_is_what_is_used(translator, sentences):
    decode = replace(translator.experiment.decode, batch_size=1, extra_length=7)  # no other test has this program
    fresh = Translator(translator.params, replace(translator.experiment, decode=decode), translator.tokenizer)
    with running(fresh, max_queue=9) as batcher:
        assert fresh.search(1)._cache_size() == 1
        batcher.submit(Wanted(sentences[:1])).result(60)
        assert fresh.search(1)._cache_size() == 1


@pytest.mark.parametrize("counts", [(1, 3), (2, 3)])
def test_one_translation_is_not_searched_like_the_lists_of_others(translator, sentences, alone, counts):
    with running(translator, max_queue=9) as batcher, Held(batcher) as held:
        batcher.submit(Wanted(sentences[:1]))
        assert held.begun.wait(60)
        run, search = [], batcher.translator.search
        batcher.translator.search = lambda count, *rest: (
            lambda *given: run.append(count) or search(count, *rest)(*given)
        )
        wanted = [Wanted([text], count) for text, count in zip(sentences[1:3], counts, strict=True)]
        futures = [batcher.submit(one) for one in wanted]
        held.released.set()
        found = [future.result(60).translations[0] for future in futures]
    assert held.batches[1] == sentences[1:3] and run[1:] == sorted({min(counts), 3} - {2})  # the first was alone
    for best, (text, *_), count in zip(found, (one.texts for one in wanted), counts, strict=True):
        assert [one.text for one in best] == [one.text for one in alone[text][:count]]


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_every_shape_of_a_batch_is_known(batch_size):
    lengths = [*range(2, 150, 9), 149]
    found = {
        (width, height)
        for length in lengths
        for count in range(1, batch_size + 1)
        for _, width, height in batches(list(range(count)), [[5] * length] * count, batch_size, few_heights)
    }
    assert found == set(shapes(149, batch_size, few_heights))
    assert {height for width, height in found if width == 16} <= {1, 4, 16, 64, batch_size}


def test_samples_depend_on_the_number_of_a_text_in_its_request(translator, sentences):
    decode = replace(translator.experiment.decode, sample=True, beam=1, seed=3)
    sampling = Translator(translator.params, replace(translator.experiment, decode=decode), translator.tokenizer)
    sampling.log = lambda line: None
    with running(sampling, max_queue=9) as batcher, Held(batcher) as held:
        assert batcher.most == 1
        batcher.submit(Wanted(sentences[:1]))
        assert held.begun.wait(60)
        futures = [batcher.submit(Wanted([text])) for text in sentences[1:3]]
        held.released.set()
        found = [future.result(60).translations[0][0].text for future in futures]
    assert held.batches[1] == sentences[1:3]
    assert found == [sampling.translate([text])[0] for text in sentences[1:3]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_it_accepted(translator, sentences, tmp_path, monkeypatch, capsys, number):
    services, answers = [], []
    monkeypatch.setattr(verbs, "loaded", lambda name, given: translator)
    (tmp_path / "config.json").touch()

    def client() -> None:
        until(lambda: services and services[0].batcher.ready.is_set())
        with Held(services[0].batcher) as held:
            connection = post(services[0], {"text": sentences[0]})
            assert held.begun.wait(60)
            os.kill(os.getpid(), number)
            until(lambda: services[0].server.should_exit)
            time.sleep(0.3)  # the server closes its address
            held.released.set()
            response = http.client.HTTPResponse(connection)
            response.begin()
            answers.append((response.status, json.loads(response.read())))

    make = Service.__init__
    monkeypatch.setattr(Service, "__init__", lambda self, *rest: services.append(self) or make(self, *rest))
    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    main(["serve", str(tmp_path), "--port", "0", "--ready-tokens", "1"])  # exit code 0
    thread.join(60)
    assert [status for status, _ in answers] == [200] and texts_of(answers[0][1])
    assert services[0].address in capsys.readouterr().out
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(services[0].address.rpartition(":")[2])), timeout=60)


def test_a_second_signal_ends_it_at_once(translator, sentences, tmp_path, monkeypatch, capsys, caplog):
    services, answers, held = [], [], []
    monkeypatch.setattr(verbs, "loaded", lambda name, given: translator)
    monkeypatch.setattr(experiments.cli.main, "leave", sys.exit)
    (tmp_path / "config.json").touch()

    def client() -> None:
        until(lambda: services and services[0].batcher.ready.is_set())
        held.append(Held(services[0].batcher).__enter__())
        connections = [post(services[0], {"text": text}) for text in sentences[:3]]
        assert held[0].begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: services[0].server.should_exit)
        os.kill(os.getpid(), signal.SIGINT)
        for connection in connections:
            response = http.client.HTTPResponse(connection)
            response.begin()
            answers.append((response.status, json.loads(response.read())["error"]))

    make = Service.__init__
    monkeypatch.setattr(Service, "__init__", lambda self, *rest: services.append(self) or make(self, *rest))
    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    with pytest.raises(SystemExit) as end:
        main(["serve", str(tmp_path), "--port", "0", "--ready-tokens", "1"])
    try:
        assert end.value.code == 130 and not held[0].released.is_set()
        assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
    finally:
        held[0].__exit__()
    thread.join(60)
    assert answers == 3 * [(503, "the service has stopped")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--wait", "-1"), "--wait must be from 0 to 60 seconds, not -1.0"),
        (("--wait", "nan"), "--wait must be from 0 to 60 seconds, not nan"),
        (("--max-queue", "0"), "--max-queue must be at least 1, not 0"),
        (("--max-sentences", "0"), "--max-sentences must be at least 1, not 0"),
        (("--ready-tokens", "0"), "--ready-tokens must be at least 1, not 0"),
        (("--port", "a"), "--port expects a whole number, not 'a'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        main(["serve", "no-such-run", *flags])
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages_it_says_how_to_get_them(monkeypatch, capsys, package):
    for name in [
        name for name in sys.modules if name.split(".")[0] == package or name.startswith("experiments.serving.")
    ]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        main(["serve", "no-such-run"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and f"needs the package {package}" in error and "[serve]" in error


def test_a_body_that_does_not_arrive_is_not_waited_for(service, monkeypatch):
    monkeypatch.setattr(application, "PATIENCE", 0.1)
    status, answer = sent(service, b"Content-Length: 100", b"{")
    assert status == 408 and "did not arrive in 0.1 seconds" in answer["error"]
