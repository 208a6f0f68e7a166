import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.images import decode_and_resize, prepare_batch
from raypipe.train.data.preprocessing import CAFFE_BGR, CAFFE_RGB, TORCHVISION
from raypipe.train.data.target import Target
from raypipe.train.networks import weights as module
from raypipe.train.networks.configurations import A, B
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights, weights_inputs
from tests.train import reference

CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def vgg_state(model: str = "vgg16", *, fc: bool = True, fill: float = 0.5) -> dict[str, Tensor]:
    """A state dict in torchvision's layout. Each tensor is one expanded number, so files stay small."""
    shapes = {name: shape for name, shape in module._expected(model).items() if fc or name.startswith("features.")}
    return {name: torch.tensor(fill).expand(shape) for name, shape in shapes.items()}


@pytest.fixture
def save_pth(tmp_path: Path) -> Callable[..., str]:
    def save(state: object, name: str = "vgg16.pth") -> str:
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> Callable[[str, object | None], None]:
    """``hub(name, state)`` makes the download `name` give `state`, or fail at a closed port if it is None."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    urls: dict[str, str] = {}
    monkeypatch.setattr(module, "weights_url", lambda name, model: {"vgg16": urls}[model][name])

    def serve(name: str, state: object | None) -> None:
        if state is None:
            urls[name] = f"http://127.0.0.1:{free_port}/vgg16-397923af.pth"
            return
        torch.save(state, tmp_path / "served")
        digest = hashlib.sha256((tmp_path / "served").read_bytes()).hexdigest()[:8]
        shutil.move(tmp_path / "served", tmp_path / f"vgg16-{digest}.pth")
        urls[name] = (tmp_path / f"vgg16-{digest}.pth").as_uri()

    return serve


@pytest.mark.parametrize("size", [32, 64])
def test_features_equal_plain_numpy_implementation(shared_data: Path, size: int) -> None:
    picture = sorted((shared_data / "portraits").glob("*.jpg"))[0]
    expected = reference.features(picture, shared_data / "vgg16_notop.h5", size).transpose(2, 0, 1).ravel()
    loaded = load_weights(str(shared_data / "vgg16_notop.h5"))
    model = build_vgg(A, image_size=size, weights=loaded, seed=0).eval()
    # Resized without the decoder's reduced decoding, which is not tested here.
    with reference.Image.open(picture) as image:
        upright = image.convert("RGB").resize((size, size), reference.Image.Resampling.BILINEAR)
    pixels = np.asarray(upright).transpose(2, 0, 1)
    with torch.no_grad():
        ours = model.extract(prepare_batch(torch.from_numpy(pixels.copy())[None], loaded.preprocessing))[0].numpy()
    assert expected.max() > 1
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-4
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-4
    assert decode_and_resize(picture.read_bytes(), size).shape == pixels.shape


def test_torchvision_state_dict_is_read(save_pth: Callable[..., str]) -> None:
    loaded = load_weights(save_pth(vgg_state()))
    assert loaded.preprocessing == TORCHVISION
    assert loaded.fc is not None
    assert set(loaded.fc) == {"classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias"}


def test_older_torch_format_is_read(tmp_path: Path) -> None:
    torch.save(vgg_state(fc=False), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = load_weights(str(tmp_path / "old.pth"))
    assert loaded.convolutions is not None
    assert all(torch.equal(value, vgg_state(fc=False)[name]) for name, value in loaded.convolutions.items())


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"a\n", b"\x80\x02K", b".", b"\x80\x02h\x02."])
def test_invalid_pth_file_raises_one_line_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(data)
    with pytest.raises(InputError, match=r"train\.weights: .*broken\.pth: cannot be read as \.pth: "):
        load_weights(str(tmp_path / "broken.pth"))


def test_nan_classifier_is_left_out(save_pth: Callable[..., str]) -> None:
    nan = {name: value * float("nan") for name, value in vgg_state().items() if name.endswith(("r.0.bias", "r.3.bias"))}
    stretched = {n: torch.tensor(float("nan")).expand(v.shape) for n, v in vgg_state().items() if "classifier" in n}
    loaded = load_weights(save_pth({**vgg_state(), **stretched, **nan}))
    assert loaded.fc is None
    assert loaded.preprocessing == CAFFE_RGB


def test_safetensors_normalisation_is_optional(tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in vgg_state(fc=False).items()}
    save_file(state, tmp_path / "plain.safetensors")
    save_file(state, tmp_path / "kept.safetensors", metadata={"preprocessing": CAFFE_BGR.to_json()})
    assert load_weights(str(tmp_path / "plain.safetensors")).preprocessing == TORCHVISION
    assert load_weights(str(tmp_path / "kept.safetensors")).preprocessing == CAFFE_BGR


def test_checkpoint_includes_its_logistic_unit(tmp_path: Path) -> None:
    trained = build_vgg(A, image_size=64, weights=load_weights("random"), seed=4)
    state = {name: value.contiguous() for name, value in trained.state_dict().items()}
    save_file(state, tmp_path / "best.safetensors", metadata={"preprocessing": CAFFE_RGB.to_json()})
    loaded = load_weights(str(tmp_path / "best.safetensors"))
    assert loaded.preprocessing == CAFFE_RGB
    going_on = build_vgg(B, image_size=64, weights=loaded, seed=0)
    assert all(torch.equal(value, going_on.state_dict()[name]) for name, value in state.items())
    # With another number of features, the unit starts with new weights.
    larger = build_vgg(B, image_size=96, weights=loaded, seed=0)
    assert larger.logit.in_features == 512 * 9
    assert torch.equal(larger.features[0].weight, trained.features[0].weight)


def test_checkpoint_names_target_of_its_last_layer(tmp_path: Path) -> None:
    target = Target("classes", ("q1", "q2", "q3"))
    state = {name: value.contiguous() for name, value in vgg_state(fc=False).items()}
    state |= {"logit.weight": torch.zeros(3, 512), "logit.bias": torch.zeros(3)}
    save_file(state, tmp_path / "best.safetensors", metadata=target.as_metadata())
    loaded = load_weights(str(tmp_path / "best.safetensors"))
    assert loaded.target == target
    assert loaded.note_for(target) == ""
    assert "trained on classes (q1, q2, q3), not score" in loaded.note_for(Target("score", ()))
    save_file(state, tmp_path / "odd.safetensors", metadata={"classes": "[", "head": "classes"})
    with pytest.raises(InputError, match=r"odd.safetensors: cannot be read as .safetensors"):
        load_weights(str(tmp_path / "odd.safetensors"))


def test_random_has_no_weights_and_a_note() -> None:
    loaded = load_weights("random")
    assert loaded.convolutions is None
    assert loaded.fc is None
    assert "nothing is pretrained" in loaded.note


def test_imagenet_is_downloaded_once(hub: Callable[..., None], tmp_path: Path) -> None:
    hub("imagenet", vgg_state())
    assert load_weights("imagenet").fc is not None
    assert load_weights("auto").name == "imagenet"
    assert len(list((tmp_path / "hub" / "checkpoints").iterdir())) == 1


def test_caffe_weights_have_mean_of_paper(hub: Callable[..., None]) -> None:
    hub("imagenet-caffe", {**vgg_state(), "classifier.0.weight": torch.tensor(float("nan")).expand(4096, 25_088)})
    loaded = load_weights("imagenet-caffe")
    assert loaded.fc is None
    grey = prepare_batch(torch.full((1, 3, 1, 1), 200, dtype=torch.uint8), loaded.preprocessing).flatten()
    # Only the mean is subtracted, without scaling, in RGB order, unlike in Keras' file.
    assert grey.tolist() == pytest.approx([200 - 123, 200 - 117, 200 - 104], abs=0.1)


@pytest.mark.parametrize("name", ["imagenet", "imagenet-caffe"])
def test_failed_download_error_names_alternatives(hub: Callable[..., None], name: str) -> None:
    hub(name, None)
    with pytest.raises(InputError, match=rf"{name}: http://127.* cannot be fetched: .*path of a .h5.* random or auto"):
        load_weights(name)


def test_auto_falls_back_to_random_with_note(hub: Callable[..., None]) -> None:
    hub("imagenet", None)
    loaded = load_weights("auto")
    assert loaded.name == "random"
    assert "auto uses random" in loaded.note
    assert "cannot be fetched" in loaded.note


def test_downloads_use_torchvision_urls() -> None:
    weights = torchvision.models.VGG16_Weights
    assert module.weights_url("imagenet", "vgg16") == weights.IMAGENET1K_V1.url
    assert module.weights_url("imagenet-caffe", "vgg16") == weights.IMAGENET1K_FEATURES.url
    assert module.weights_url("imagenet", "vgg19") == torchvision.models.VGG19_Weights.IMAGENET1K_V1.url


def test_a_damaged_download_is_refused(hub: Callable[..., None], tmp_path: Path) -> None:
    hub("imagenet", vgg_state())
    served = Path(module.weights_url("imagenet", "vgg16").removeprefix("file://"))
    served.write_bytes(served.read_bytes()[:-100])
    with pytest.raises(InputError, match="hash"):
        load_weights("imagenet")
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_a_layer_of_the_wrong_shape_is_named(save_pth: Callable[..., str]) -> None:
    state = {**vgg_state(fc=False), "features.10.weight": torch.zeros(256, 64, 3, 3)}
    with pytest.raises(
        InputError, match=r"features.10.weight \(block3_conv1 in Keras\) has the shape \(256, 64, 3, 3\)"
    ):
        load_weights(save_pth(state))


def test_vgg_19_file_is_only_read_for_vgg_19(save_pth: Callable[..., str]) -> None:
    deep = save_pth(vgg_state("vgg19"), "vgg19.pth")
    loaded = load_weights(deep, "vgg19")
    assert loaded.convolutions is not None
    assert loaded.fc is not None
    assert loaded.convolutions["features.34.weight"].shape == (512, 512, 3, 3)
    with pytest.raises(InputError, match=r"vgg19.pth: layer features.16.weight is not in VGG-16; see --train.model"):
        load_weights(deep)
    with pytest.raises(InputError, match=r"vgg16.pth: layer features.17.weight is not in VGG-19"):
        load_weights(save_pth(vgg_state()), "vgg19")
    with pytest.raises(ConfigError, match=r"imagenet-caffe is not allowed for train.model vgg19"):
        load_weights("imagenet-caffe", "vgg19")


def test_checkpoint_of_other_network_is_refused(tmp_path: Path) -> None:
    save_file({"logit.weight": torch.zeros(1, 512)}, tmp_path / "best.safetensors", metadata={"model": "resnet18"})
    with pytest.raises(InputError, match=r"best.safetensors: is a checkpoint of resnet18, not of vgg16"):
        load_weights(str(tmp_path / "best.safetensors"))


def test_a_missing_layer_is_named(save_pth: Callable[..., str]) -> None:
    state = vgg_state()
    del state["classifier.3.bias"]
    with pytest.raises(InputError, match=r"classifier.3.bias \(fc2 in Keras\) is missing"):
        load_weights(save_pth(state))
    with pytest.raises(InputError, match=r"features.0.weight .* is missing"):
        load_weights(save_pth({"conv1.weight": torch.zeros(1)}))


def test_values_that_are_not_finite_are_named(save_pth: Callable[..., str]) -> None:
    state = {**vgg_state(fc=False), "features.5.bias": torch.full((128,), float("inf"))}
    with pytest.raises(InputError, match=r"features.5.bias .* not finite"):
        load_weights(save_pth(state))


@pytest.mark.parametrize("suffix", [".h5", ".pth", ".safetensors"])
def test_file_with_wrong_content_raises_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"not what its name says")
    with pytest.raises(InputError, match=rf"broken{suffix}: cannot be read as {suffix}"):
        load_weights(str(path))
    with pytest.raises(InputError, match="there is no such file"):
        load_weights(str(tmp_path / f"absent{suffix}"))


def test_hostile_pickle_executes_no_code(save_pth: Callable[..., str], tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(InputError, match="cannot be read"):
        load_weights(save_pth(Touch()))
    assert not (tmp_path / "ran").exists()


def test_unknown_weights_error_lists_allowed_names() -> None:
    with pytest.raises(ConfigError, match=r"'imagnet' is not allowed: imagenet, imagenet-caffe, random, auto"):
        load_weights("imagnet")


def test_weights_file_input_depends_on_contents(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    assert weights_inputs(str(path)) == {}
    path.write_bytes(b"one")
    before = weights_inputs(str(path))
    path.touch()
    assert weights_inputs(str(path)) == before
    path.write_bytes(b"two")
    assert weights_inputs(str(path)) != before
    assert set(before) == {"weights"}
    assert [weights_inputs(name) for name in ("auto", "random", "imagenet", str(tmp_path))] == [{}] * 4
