"""The Lightning callback with the real Lightning: same losses as a loop of one's own, once, resumable."""

import logging
import warnings

import pytest
import torch
from small_images import METHODS, images, network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thrifty
from thrifty.core.errors import ModelError, NonFiniteError
from thrifty.reuse import ReuseConv2d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Lightning's own imports warn of is theirs
    lightning = pytest.importorskip("lightning.pytorch")
    from thrifty.integrations.lightning import ThriftyCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec|treespec|isinstance|checkpoint director)")
STEPS = 12


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.model, self.losses, self.factor = network(), [], factor

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1]) * self.factor
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(batch: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(*images()), batch_size=batch)


def trainer(callback, epochs: int = 2, **settings):
    plain = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(
        max_epochs=epochs, callbacks=[callback], **{"enable_checkpointing": False, **plain, **settings}
    )


def own_loop(steps: int = STEPS) -> tuple[list[float], thrifty.compose.Applied]:
    module = Module()  # its layers' names are what their codebooks are seeded with
    model, optimizer = module.model, module.configure_optimizers()
    applied = thrifty.apply_(module, METHODS, optimizer=optimizer)
    losses = []
    while len(losses) < steps:
        for x, y in loader():
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            applied.step(loss)
            losses.append(loss.item())
    return losses, applied


def test_losses_and_moves_are_those_of_a_loop_of_ones_own():
    module, callback = Module(), ThriftyCallback(METHODS)
    trainer(callback).fit(module, loader())
    losses, applied = own_loop()
    assert module.losses == losses
    assert callback.applied.steps == STEPS and callback.applied.events == applied.events != []
    assert isinstance(module.model[0], ReuseConv2d)


def test_fitting_again_changes_nothing_anew():
    module, callback = Module(), ThriftyCallback(METHODS)
    trainer(callback, 1).fit(module, loader())
    first = callback.applied
    trainer(callback, 1).fit(module, loader())
    assert callback.applied is first and first.steps == STEPS
    other = Module()
    trainer(callback, 1).fit(other, loader())
    assert callback.applied is not first and isinstance(other.model[0], ReuseConv2d)
    thrifty.remove_(other)
    assert type(other.model[0]) is nn.Conv2d


def test_accumulated_batches_are_one_step():
    module, callback = Module(), ThriftyCallback(METHODS)
    trainer(callback, 1, accumulate_grad_batches=3).fit(module, loader())
    assert callback.applied.steps == 2
    assert len(module.losses) == 6


def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    module, callback = Module(), ThriftyCallback(METHODS)
    first = trainer(callback, 1)
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed, again = Module(), ThriftyCallback(METHODS)
    trainer(again, 2).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    losses, applied = own_loop()
    assert module.losses + resumed.losses == losses
    assert again.applied.events == applied.events and again.applied.steps == STEPS
    stock = Module()
    stock.load_state_dict(torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"])


def test_evaluation_alone_changes_nothing():
    module, callback = Module(), ThriftyCallback(METHODS)
    module.validation_step = lambda batch, batch_idx: None
    trainer(callback).validate(module, loader(), verbose=False)
    assert callback.applied is None and type(module.model[0]) is nn.Conv2d


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        trainer(ThriftyCallback(METHODS)).fit(Module(factor=float("nan")), loader())


def test_a_module_that_is_changed_already_is_refused():
    module = Module()
    thrifty.apply_(module, METHODS)
    with pytest.raises(ModelError, match="reuse is already applied"):
        trainer(ThriftyCallback(METHODS)).fit(module, loader())
