//! How a project that publishes weights names its tensors.

use std::collections::BTreeSet;

use crate::{Distillation, StemConfig, VitConfig};

/// What a tensor, or the weight and bias of a layer, is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Patches,
    Cls,
    DistillationToken,
    Positions,
    AttentionNorm,
    /// Queries, keys and values in one layer.
    Qkv,
    Query,
    Key,
    Value,
    AttentionOutput,
    AttentionScale,
    MlpNorm,
    Expand,
    Contract,
    MlpScale,
    Norm,
    Head,
    DistillationHead,
}

impl Part {
    /// A tensor by itself, not the weight and the bias of a layer.
    pub fn is_plain(self) -> bool {
        matches!(
            self,
            Self::Cls
                | Self::DistillationToken
                | Self::Positions
                | Self::AttentionScale
                | Self::MlpScale
        )
    }
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A linear layer's is `[inputs, outputs]`, heads are an axis of their own, a patch's axes are
    /// height, width, channel.
    Jax,
    /// A linear layer's is `[outputs, inputs]`, a patch's axes are channel, height, width.
    Torch,
}

/// How positions are resized to another grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionResize {
    /// Linearly, grid corner to grid corner, as the published code does (`scipy.ndimage.zoom` of
    /// order 1, which for some sizes writes zeros at the far edge; this does not).
    Linear,
    /// Bicubically, as Hugging Face does for DINOv2 (PyTorch's `interpolate`).
    Bicubic,
    /// Bicubically with antialias, as timm does.
    BicubicAntialias,
}

/// A project's names.
#[derive(Debug)]
pub(super) struct Naming {
    /// The project.
    pub name: &'static str,
    pub layout: Layout,
    /// How the project itself resizes positions.
    pub resize: PositionResize,
    /// The layer norms' epsilon, unless a `config.json` says otherwise.
    pub layer_norm_eps: f64,
    /// Groups of rows; `{}` is the block's number.
    pub tables: &'static [&'static [(Part, &'static str)]],
    /// The tensor of this part is there in no other naming.
    pub sure: Part,
    pub stem: Option<&'static StemNames>,
    /// Tensors of pre-training that no fine-tuning needs: their names start with one of these.
    pub left_out: &'static [&'static str],
}

/// How the convolutions of a hybrid model are named.
#[derive(Debug)]
pub(super) struct StemNames {
    pub convolution: &'static str,
    pub norm: &'static str,
    /// What each unit's names start with; the first `{}` is the stage's number, the second the
    /// unit's in it.
    pub unit: &'static str,
    /// The first number.
    pub first: usize,
    /// Within a unit; `{}` is 1, 2 or 3.
    pub unit_convolution: &'static str,
    pub unit_norm: &'static str,
    pub shortcut: &'static str,
    pub shortcut_norm: &'static str,
}

impl StemNames {
    /// A name within a unit (both numbers 0-based).
    fn in_unit(&self, stage: usize, unit: usize, name: &str) -> String {
        let [stage, unit] = [stage, unit].map(|number| (number + self.first).to_string());
        let start = self.unit.replacen("{}", &stage, 1).replacen("{}", &unit, 1);
        start + name
    }

    /// The names of a unit's three convolutions, each with that of the norm after it.
    pub fn layers(&self, stage: usize, unit: usize) -> [[String; 2]; 3] {
        [1, 2, 3].map(|number: usize| {
            [self.unit_convolution, self.unit_norm]
                .map(|name| self.in_unit(stage, unit, &name.replace("{}", &number.to_string())))
        })
    }

    /// The names of the convolution, and of its norm, that a unit's input goes through.
    pub fn shortcut(&self, stage: usize, unit: usize) -> [String; 2] {
        [self.shortcut, self.shortcut_norm].map(|name| self.in_unit(stage, unit, name))
    }

    /// The first convolution and its norm.
    pub fn root(&self) -> [String; 2] {
        [self.convolution, self.norm].map(str::to_string)
    }

    /// Every convolution of a stem, with the norm after it.
    fn all(&self, stem: &StemConfig) -> Vec<[String; 2]> {
        let mut names = vec![self.root()];
        for shape in stem.units() {
            names.extend(self.layers(shape.stage, shape.unit));
            if shape.has_shortcut() {
                names.push(self.shortcut(shape.stage, shape.unit));
            }
        }
        names
    }
}

impl Naming {
    pub fn is_hugging_face(&self) -> bool {
        self.name.starts_with("Hugging Face")
    }

    /// Every part that the project has, and its name.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &'static str)> + use<> {
        self.tables.iter().copied().flatten().copied()
    }

    pub fn weight_suffix(&self, is_norm: bool) -> &'static str {
        match (self.layout, is_norm) {
            (Layout::Torch, _) => ".weight",
            (Layout::Jax, true) => "/scale",
            (Layout::Jax, false) => "/kernel",
        }
    }

    pub fn bias_suffix(&self) -> &'static str {
        match self.layout {
            Layout::Torch => ".bias",
            Layout::Jax => "/bias",
        }
    }
}

/// The names of a file's tensors.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub naming: &'static Naming,
    /// What stands before the backbone's names.
    pub prefix: String,
}

impl Names {
    /// The name of a part, `layer` being the block, if the project has such a part.
    pub fn of(&self, part: Part, layer: usize) -> Option<String> {
        let (_, name) = self.naming.parts().find(|(entry, _)| *entry == part)?;
        let name = name.replace("{}", &layer.to_string());
        // Hugging Face's heads stand beside the backbone, not in it.
        let is_head = matches!(part, Part::Head | Part::DistillationHead);
        Some(if self.naming.is_hugging_face() && is_head {
            name
        } else {
            self.of_backbone(&name)
        })
    }

    pub fn of_backbone(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of a layer's weight.
    pub fn weight(&self, part: Part, layer: usize) -> Option<String> {
        let is_norm = matches!(part, Part::AttentionNorm | Part::MlpNorm | Part::Norm);
        Some(self.of(part, layer)? + self.naming.weight_suffix(is_norm))
    }

    /// The name of a layer's bias.
    pub fn bias(&self, part: Part, layer: usize) -> Option<String> {
        Some(self.of(part, layer)? + self.naming.bias_suffix())
    }

    /// The name by which a part is recognised.
    pub fn first_of(&self, part: Part) -> Option<String> {
        if part.is_plain() {
            self.of(part, 0)
        } else {
            self.weight(part, 0)
        }
    }

    /// The names of everything that a model of these sizes has, heads included.
    pub fn all(&self, config: &VitConfig) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (part, name) in self.naming.parts() {
            let is_there = match part {
                Part::AttentionScale | Part::MlpScale => config.layer_scale.is_some(),
                Part::DistillationToken => config.distillation.is_some(),
                Part::DistillationHead => config.distillation == Some(Distillation::TokenAndHead),
                _ => true,
            };
            let layers = match (is_there, name.contains("{}")) {
                (false, _) => 0,
                (true, true) => config.num_layers,
                (true, false) => 1,
            };
            for layer in 0..layers {
                if part.is_plain() {
                    names.extend(self.of(part, layer));
                } else {
                    names.extend(self.weight(part, layer));
                    names.extend(self.bias(part, layer));
                }
            }
        }
        if let (Some(stem), Some(of_stem)) = (&config.stem, self.naming.stem) {
            for [convolution, norm] in of_stem.all(stem) {
                names.insert(self.of_backbone(&convolution) + self.naming.weight_suffix(false));
                names.insert(self.of_backbone(&norm) + self.naming.weight_suffix(true));
                names.insert(self.of_backbone(&norm) + self.naming.bias_suffix());
            }
        }
        names
    }
}
