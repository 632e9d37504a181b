"""Evaluation mode, devices and threads."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn

from mvkit.errors import UsageError, UserCodeError
from mvkit.features.hooks import (
    _exact_convolutions,
    device_for,
    evaluation_mode,
    floating_dtype,
    limit_threads,
    measure_outputs,
    parse_device,
    record_calls,
)

CPU = torch.device("cpu")


def test_every_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model, CPU):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_a_network_on_several_devices_is_refused():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))
    with pytest.raises(UsageError, match=r"several devices \(cpu, meta\)"), evaluation_mode(model, CPU):
        pass


def test_a_network_in_double_precision_stays_on_the_processor_of_a_mac(caplog):
    model, apple = nn.Linear(2, 1), torch.device("mps")
    assert device_for(model, apple) == apple
    assert device_for(nn.Identity(), apple) == apple
    doubles = nn.Sequential(model, nn.BatchNorm1d(1).double())
    assert device_for(doubles, torch.device("cuda")).type == "cuda"
    with caplog.at_level(logging.WARNING):
        assert device_for(doubles, apple) == CPU
    assert "double precision, which mps has not: it runs on the CPU" in caplog.text


def test_evaluation_mode_on_a_mac_changes_no_setting_of_other_cards():
    before = torch.backends.cudnn.deterministic
    model = nn.Identity()
    with evaluation_mode(model, torch.device("mps")):
        assert not torch.is_autocast_enabled("mps")
        assert torch.backends.cudnn.deterministic is before


def test_batch_statistics_are_warned_of(caplog):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    with caplog.at_level(logging.WARNING), evaluation_mode(model, CPU):
        pass
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["1"]


def test_convolutions_on_a_gpu_are_exact_and_repeatable_and_settings_come_back():
    flags = torch.backends.cudnn
    before = (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32)
    with _exact_convolutions(torch.device("cuda")):
        assert (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32) == (
            before[0],
            False,
            True,
            False,
        )
    assert (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32) == before


def test_threads_are_limited_and_restored():
    before = torch.get_num_threads()
    with limit_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with limit_threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="at least 1"), limit_threads(0):
        pass


def test_devices_by_name():
    assert parse_device("cpu") == CPU
    assert parse_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("warp", "cuda:99", ""):
        with pytest.raises(UsageError, match=f"device {name}: (give auto|no GPU here|there are)"):
            parse_device(name)


def test_inputs_follow_the_dtype_of_the_weights():
    assert floating_dtype(nn.Linear(1, 1).double()) == torch.float64
    assert floating_dtype(nn.Identity()) == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_features_of_the_cpu_and_the_network_comes_home(pictures):
    import numpy as np

    from mvkit.features import extract
    from mvkit.models import load_model

    model = load_model("alexnet_bn_ir", weights="random")
    on_cpu = extract(model, pictures)
    on_gpu = extract(model, pictures, device="cuda", batch_size=2)
    assert {parameter.device for parameter in model.parameters()} == {CPU}
    for layer in on_cpu:
        scale = on_cpu[layer].std()
        np.testing.assert_allclose(on_gpu[layer], on_cpu[layer], rtol=0, atol=1e-4 * scale)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_and_outputs_without_values_are_refused() -> None:
    class Meta(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.empty(2, device="meta")

    with pytest.raises(UserCodeError, match="lies on the device 'meta'"):
        record_calls(nn.Sequential(Meta()), torch.zeros(1, 2), {"0": None})
    scripted = nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2), check_trace=False))
    with pytest.raises(UserCodeError, match=r"^0: is TorchScript, of which torch gives only the output"):
        record_calls(scripted, torch.zeros(1, 2), {"0": None})


def test_a_network_and_its_parts_belong_to_one_thread_at_a_time():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), nn.Dropout()))
    model.eval()
    model[1].train()
    waits, entered = Event(), Event()

    def other() -> None:
        waits.set()
        with evaluation_mode(model[1], CPU):
            entered.set()

    thread = Thread(target=other)
    with evaluation_mode(model, CPU), evaluation_mode(model, CPU):
        thread.start()
        assert waits.wait(10)
        assert not entered.wait(0.1)
        with evaluation_mode(nn.Linear(1, 1), CPU):
            pass
    thread.join(10)
    assert entered.is_set()
    assert [module.training for module in model.modules()] == [False, False, True, True, True]


def test_threads_that_share_a_network_get_the_features_of_their_own_images():
    from mvkit.features import extract

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 2, 3))
    images = [torch.rand(6, 3, 16, 16) for _ in range(6)]

    def features(prepared: torch.Tensor) -> list[np.ndarray]:
        found = extract(model, prepared, ["1", "3"], batch_size=2)
        return [np.asarray(found[name]) for name in found.layers]

    alone = [features(prepared) for prepared in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(features, images))
    for expected, given in zip(alone, together, strict=True):
        for a, b in zip(expected, given, strict=True):
            np.testing.assert_array_equal(a, b)


def test_calls_by_other_threads_are_not_recorded():
    model = nn.Sequential(nn.Identity(), nn.Identity())

    def call_elsewhere(module: nn.Module, inputs: object) -> None:
        if float(inputs[0]) > 0:
            thread = Thread(target=model[0], args=(torch.tensor(-1.0),))
            thread.start()
            thread.join()

    model[1].register_forward_pre_hook(call_elsewhere)
    assert record_calls(model, torch.tensor(2.0), {"0": None, "1": None}) == {
        "0": [{"": torch.tensor(2.0)}],
        "1": [{"": torch.tensor(2.0)}],
    }


def _sum_in_child(results) -> None:
    results.put((torch.get_num_threads(), float(torch.ones(1000, 1000).exp().sum())))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_of_a_process_that_computes_in_threads_does_not_wait_for_them():
    import mvkit.models.base  # noqa: F401

    context = multiprocessing.get_context("fork")
    with limit_threads(2):
        torch.ones(1000, 1000).exp().sum()
        results = context.SimpleQueue()
        child = context.Process(target=_sum_in_child, args=(results,))
        child.start()
        child.join(20)
        child.kill()
        assert child.exitcode == 0
    n_threads, total = results.get()
    assert n_threads == 1
    assert total == pytest.approx(2.718281828e6, rel=1e-5)


def test_outputs_of_all_modules_of_this_thread_are_measured():
    model = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 2).double()))
    model[1][0].register_forward_hook(lambda module, inputs, output: output.double())
    rows = torch.zeros(4, 3)
    with measure_outputs() as sizes, ThreadPoolExecutor(1) as other:
        other.submit(nn.Linear(3, 1000), rows).result()
        model(rows)
    # Linear; ReLU, made double by its own hook; the second Linear, and the two containers around it.
    assert sizes == [4 * 5 * 4, 4 * 5 * 4, 4 * 2 * 8, 4 * 2 * 8, 4 * 2 * 8]
    model(rows)
    assert len(sizes) == 5
