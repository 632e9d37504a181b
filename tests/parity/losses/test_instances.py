"""Objectives with a memory: bank or queue. Several successive steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mvkit.objectives import registry

Make = Callable[..., Any]


def test_instance_recognition(loss_golden: Make, fit: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("instance_discrimination")
    weight = golden["param:_embedding_func.weight"]
    chosen = registry.InstanceRecognition(
        width=len(weight),
        noise_samples=int(golden.number("m")),
        temperature=golden.number("tau"),
        bank_momentum=golden.number("gamma"),
    )
    n_images = int(golden.number("N"))
    fitting = fit(golden, nn.Identity(), chosen, width=weight.shape[1], n_images=n_images)
    fitting.fill("param:")
    objective = fitting.objective
    objective.bank.entries.copy_(golden["bank0"])
    assert len(golden.steps()) >= 2
    for step in golden.steps():
        objective.zero_grad()
        images, index = golden.leaf(f"{step}:features"), golden[f"{step}:indices"]
        batch = batch_of(images, index=index)
        drawn = golden[f"{step}:noise_idx"]
        objective.draw_noise = lambda asked, index=index, drawn=drawn: drawn if asked is index else None
        embedded = objective.embed(fitting.encoder, batch)
        loss = objective.criterion(embedded, batch)
        fitting.finish(loss, f"{step}:", features=images)
        close(loss.parts["data"], golden[f"out:{step}:data_loss"])
        close(loss.parts["noise"], golden[f"out:{step}:noise_loss"])
        objective.after_step(tuple(rows.detach() for rows in embedded), batch)
        close(objective.bank.entries[index], golden[f"out:{step}:entries"])
        close(objective.bank.entries, golden[f"out:{step}:bank_after"])
    embeddings = objective.fc(golden["knn:features"])
    expected = golden["out:knn:inner_products"]
    products, nearest = objective.bank.nearest(embeddings)
    assert nearest[:, 0].tolist() == golden["out:knn:nearest"].tolist()
    close(products[:, 0], expected.max(1).values)
    products, nearest = objective.bank.nearest(embeddings, k=n_images)
    close(products, expected.gather(1, nearest))
    assert (nearest.sort(1).values == torch.arange(n_images)).all()


def test_moco_v2(loss_golden: Make, fit: Make, toy: Make, close: Make, batch_of: Make) -> None:
    golden = loss_golden("mocov2")
    encoder = toy(golden, "encoder_q:0.")
    hidden, width = golden.widths(r"encoder_q:1\.mlp\.\d\.weight")
    chosen = registry.MoCoV2(
        hidden=hidden,
        width=width,
        queue=golden["queue0"].shape[1],
        temperature=golden.number("temperature"),
        momentum=golden.number("momentum"),
    )
    fitting = fit(golden, encoder, chosen, width=encoder.fc.out_features)
    fitting.fill("encoder_q:", "encoder_k:")
    objective = fitting.objective
    objective.queue.copy_(golden["queue0"].T)
    objective.position.copy_(golden["ptr0"])

    def check_queue(prefix: str) -> None:
        close(objective.queue.T, golden[f"out:{prefix}queue"])
        close(objective.position, golden[f"out:{prefix}ptr"])

    assert len(golden.steps()) >= 2
    for number, step in enumerate(golden.steps(), start=1):
        fitting.zero_grad()
        images = golden.leaf(f"{step}:input")
        batch = batch_of(*images.unbind(1))
        objective.before_step(encoder, step=number)
        embedded = objective.embed(encoder, batch)
        fitting.finish(objective.criterion(embedded, batch), f"{step}:", input=images)
        objective.after_step(tuple(rows.detach() for rows in embedded), batch)
        check_queue(f"{step}:")
        fitting.check_state(f"after{number}:")
        with torch.no_grad():
            for parameter in fitting.parameters():
                if parameter.grad is not None:
                    parameter -= golden.number("sgd_lr_between_steps") * parameter.grad
    fitting.eval()
    before = {name: value.clone() for name, value in fitting.state_dict().items()}
    fitting.check_loss(objective.loss(encoder, batch_of(*golden["val:input"].unbind(1))), "val:")
    check_queue("val:")
    for name, value in fitting.state_dict().items():
        assert torch.equal(value, before[name]), name
