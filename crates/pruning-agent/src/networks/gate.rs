//! The network that foresees what merging does to an image's answer.

use apt_vit_model::FlopsCount;
use apt_vit_model::host::upload;
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Initializer, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::gelu;

/// Powers of the told price that the table of usual values has: 0, 1 and 2.
const POWERS: usize = 3;
/// So far from the mean, in standard deviations, a feature is believed.
const FAR: f32 = 5.0;

/// Configuration of a [`Gate`].
#[derive(Config, Debug)]
pub struct GateConfig {
    /// Numbers that are told of an image.
    pub features: usize,
    /// Nodes of its decision point.
    pub nodes: usize,
    /// Schedules below each node.
    pub schedules: usize,
    /// Width within.
    #[config(default = "48")]
    pub width: usize,
    /// Share of the inputs and of what is within that is left out in learning.
    #[config(default = "0.25")]
    pub dropout: f64,
}

impl GateConfig {
    /// Creates it on `device`. Before it is taught it foresees the same for every image.
    pub fn init(&self, device: &Device) -> Gate {
        let Self {
            features,
            nodes,
            schedules,
            width,
            dropout,
        } = *self;
        let inputs = features + nodes;
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, device));
        let output = LinearConfig::new(width, schedules).with_bias(false);
        Gate {
            center: zeros([nodes, features]),
            scale: zeros([nodes, features]),
            input: LinearConfig::new(inputs, width).init(device),
            output: output.with_initializer(Initializer::Zeros).init(device),
            usual: zeros([POWERS * nodes, schedules]),
            dropout: DropoutConfig::new(dropout).init(),
        }
    }
}

/// Foresees, from what one block shows of an image, the logarithm of the divergence that each schedule leads to that can
/// still be chosen. A network says how the image differs from what is usual; what is usual is a table, which may depend on
/// the price of FLOPs: a forecast does not, but what makes good decisions at a price does.
#[derive(Module, Debug)]
pub struct Gate {
    /// The mean of each feature at each node, `[nodes, features]`; not learned by gradient.
    pub center: Param<Tensor<2>>,
    /// What a feature's distance from its mean is multiplied by, `[nodes, features]`; not learned by gradient.
    pub scale: Param<Tensor<2>>,
    /// `[features + nodes, width]`
    pub input: Linear,
    /// `[width, schedules]`
    pub output: Linear,
    /// What is usual at each node, the factors of the told price's powers one after the other: `[3 * nodes, schedules]`.
    pub usual: Param<Tensor<2>>,
    dropout: Dropout,
}

impl Gate {
    /// Features as the network takes them: `features`, `[rows, features]`, each row at a node, without their mean and in
    /// standard deviations, with the node beside them, `[rows, features + nodes]`. No gradient is to reach it.
    pub fn standard(&self, features: Tensor<2>, nodes: &[usize]) -> Tensor<2> {
        let device = features.device();
        let [count, _] = self.center.dims();
        let mut at = vec![0.0; nodes.len() * count];
        for (row, &node) in at.chunks_exact_mut(count).zip(nodes) {
            row[node] = 1.0;
        }
        let at = upload(at, [nodes.len(), count], &device);
        let center = at.clone().matmul(self.center.val());
        let scale = at.clone().matmul(self.scale.val());
        let standard = ((features - center) * scale).clamp(-FAR, FAR);
        Tensor::cat(vec![standard, at], 1)
    }

    /// How the logarithms of divergences differ from what is usual, `[rows, schedules]`, of [`standard`](Self::standard)
    /// features.
    pub fn unusual(&self, standard: Tensor<2>) -> Tensor<2> {
        let inner = gelu(self.input.forward(self.dropout.forward(standard)));
        self.output.forward(self.dropout.forward(inner))
    }

    /// What is usual at each node at these prices, as they are told, `[rows, 1]`: `[rows, nodes * schedules]`.
    pub fn usual_at(&self, price: Tensor<2>) -> Tensor<2> {
        let [nodes, schedules] = self.sizes();
        let powers = Tensor::cat(
            vec![price.ones_like(), price.clone(), price.clone() * price],
            1,
        );
        let usual = self.usual.val().reshape([POWERS, nodes * schedules]);
        powers.matmul(usual)
    }

    /// The logarithm of the divergence of each schedule below, `[rows, schedules]`, at a price as it is told.
    pub fn foresee(&self, standard: Tensor<2>, price: f32) -> Tensor<2> {
        let [nodes, schedules] = self.sizes();
        let [_, features] = self.center.dims();
        let at = standard.clone().narrow(1, features, nodes);
        let price = Tensor::full([1, 1], price, &standard.device());
        let usual = self.usual_at(price).reshape([nodes, schedules]);
        at.matmul(usual) + self.unusual(standard)
    }

    /// Nodes, and schedules below each.
    pub fn sizes(&self) -> [usize; 2] {
        let [nodes, _] = self.center.dims();
        let [_, schedules] = self.usual.dims();
        [nodes, schedules]
    }

    /// FLOPs of a decision about one image.
    pub fn flops(&self) -> FlopsCount {
        let of = |linear: &Linear| linear.weight.dims().iter().product::<usize>();
        2 * (of(&self.input) + of(&self.output)) as u64
    }
}
