"""A diagnosis says which layers a graph does not open, and why where it was asked to open them."""

import re

import keras
import pytest
from keras import layers, ops

import plots


def test_layers_of_kerashub_that_take_no_query_are_opened():
    from test_plots_hub import HUB_MODELS

    graph = plots.read_graph(HUB_MODELS["XLNet"][0](), open_nested=True, open_layers=True)
    text = " ".join(plots.diagnosis_text(graph).split())
    assert re.match("Post-norm Transformer encoder: 3 blocks with 6 residual paths; .*", text)
    assert "learned positions" not in text  # biases of queries, one vector for each head
    assert "does not open" not in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # about `build` of Flux
@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["CLIP", "Flux", "ViTDet"])
def test_no_advice_is_given_that_was_followed(name):
    from test_plots_hub import HUB_MODELS

    model = HUB_MODELS[name][0]()
    asked, followed = (
        " ".join(plots.diagnosis_text(plots.read_graph(model, True, opened)).split())
        for opened in (False, True)
    )
    assert "open_layers=True" in asked
    assert "open_layers" not in followed
    assert "closed" not in followed


@pytest.mark.filterwarnings("ignore:Layer 'inside':UserWarning")
def test_a_model_called_with_a_mask_of_its_own_says_why_it_stays_closed():
    x = inner = keras.Input((5, 7))
    inside = keras.Model(inner, layers.Dense(7)(inner), name="inside")
    mask = ops.any(ops.not_equal(x, 0), -1)
    graph = plots.read_graph(keras.Model(x, inside(x, mask=mask)), open_nested=True)
    text = " ".join(plots.diagnosis_text(graph).split())
    assert "Functional stays closed: it is called with a mask of its own." in text
    assert "open_nested" not in text


def test_a_layer_that_cannot_be_traced_says_why_it_stays_closed():
    class Rounded(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight()

        def call(self, x):
            return x * float(x[0, 0, 0]) * self.factor

        def compute_output_shape(self, shape):
            return shape

    x = keras.Input((5, 7))
    graph = plots.read_graph(keras.Model(x, Rounded()(x)), open_layers=True)
    text = " ".join(plots.diagnosis_text(graph).split())
    assert "1 of them closed (Rounded)" in text
    assert "Rounded stays closed: its call does not run on symbolic tensors" in text
    assert "open_layers" not in text
