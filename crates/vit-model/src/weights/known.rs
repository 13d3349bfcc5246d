//! Checkpoints that their publishers let everybody download.

use serde::Serialize;

/// A published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KnownCheckpoint {
    /// What it is called here.
    pub name: &'static str,
    /// What it is.
    pub summary: &'static str,
    /// Who publishes it.
    pub publisher: &'static str,
    /// Its licence.
    pub licence: &'static str,
    /// About how many megabytes it has.
    pub megabytes: u32,
    /// The addresses of its files.
    pub urls: &'static [&'static str],
}

impl KnownCheckpoint {
    /// Finds one by its name.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        KNOWN_CHECKPOINTS.iter().find(|known| known.name == name)
    }

    /// The names of its files, in the order of the addresses.
    pub fn files(&self) -> impl Iterator<Item = String> + use<> {
        let names = self.urls.iter().map(|url| url.rsplit('/').next());
        names.map(|name| name.unwrap_or_default().replace("%2B", "+"))
    }
}

/// Every checkpoint that is known. No publisher states checksums beside them.
pub const KNOWN_CHECKPOINTS: &[KnownCheckpoint] = &[
    checkpoint(
        "vit-b16-in21k",
        "ViT-B/16, ImageNet-21k: the published method's start",
        "Google",
        413,
        &["https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz"],
    ),
    checkpoint(
        "vit-b32-in21k",
        "ViT-B/32, ImageNet-21k",
        "Google",
        420,
        &["https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_32.npz"],
    ),
    checkpoint(
        "vit-l16-in21k",
        "ViT-L/16, ImageNet-21k",
        "Google",
        1307,
        &["https://storage.googleapis.com/vit_models/imagenet21k/ViT-L_16.npz"],
    ),
    checkpoint(
        "vit-l32-in21k",
        "ViT-L/32, ImageNet-21k",
        "Google",
        1316,
        &["https://storage.googleapis.com/vit_models/imagenet21k/ViT-L_32.npz"],
    ),
    checkpoint(
        "vit-h14-in21k",
        "ViT-H/14, ImageNet-21k",
        "Google",
        2642,
        &["https://storage.googleapis.com/vit_models/imagenet21k/ViT-H_14.npz"],
    ),
    checkpoint(
        "vit-r50-b16-in21k",
        "the hybrid R50+ViT-B/16, ImageNet-21k",
        "Google",
        461,
        &["https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz"],
    ),
    checkpoint(
        "timm-vit-s16",
        "ViT-S/16 of AugReg, ImageNet-21k and 1k",
        "timm",
        88,
        &[
            "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/config.json",
            "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
        ],
    ),
    checkpoint(
        "timm-deit-s16-distilled",
        "DeiT-S/16 with distillation token, ImageNet-1k",
        "timm",
        90,
        &[
            "https://huggingface.co/timm/deit_small_distilled_patch16_224.fb_in1k/resolve/main/config.json",
            "https://huggingface.co/timm/deit_small_distilled_patch16_224.fb_in1k/resolve/main/model.safetensors",
        ],
    ),
    checkpoint(
        "hf-vit-b16",
        "ViT-B/16, ImageNet-21k and 1k",
        "Google",
        346,
        &[
            "https://huggingface.co/google/vit-base-patch16-224/resolve/main/config.json",
            "https://huggingface.co/google/vit-base-patch16-224/resolve/main/model.safetensors",
        ],
    ),
    checkpoint(
        "dinov2-s14",
        "DINOv2 ViT-S/14, without a head",
        "Meta",
        88,
        &[
            "https://huggingface.co/facebook/dinov2-small/resolve/main/config.json",
            "https://huggingface.co/facebook/dinov2-small/resolve/main/model.safetensors",
        ],
    ),
    checkpoint(
        "dinov2-b14",
        "DINOv2 ViT-B/14, without a head",
        "Meta",
        346,
        &[
            "https://huggingface.co/facebook/dinov2-base/resolve/main/config.json",
            "https://huggingface.co/facebook/dinov2-base/resolve/main/model.safetensors",
        ],
    ),
    checkpoint(
        "dinov2-l14",
        "DINOv2 ViT-L/14, without a head",
        "Meta",
        1218,
        &[
            "https://huggingface.co/facebook/dinov2-large/resolve/main/config.json",
            "https://huggingface.co/facebook/dinov2-large/resolve/main/model.safetensors",
        ],
    ),
];

const fn checkpoint(
    name: &'static str,
    summary: &'static str,
    publisher: &'static str,
    megabytes: u32,
    urls: &'static [&'static str],
) -> KnownCheckpoint {
    KnownCheckpoint {
        name,
        summary,
        publisher,
        licence: "Apache-2.0",
        megabytes,
        urls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_files_have_names() {
        for known in KNOWN_CHECKPOINTS {
            assert_eq!(KnownCheckpoint::from_name(known.name), Some(known));
            for file in known.files() {
                let kind = file.rsplit('.').next().unwrap();
                assert!(["npz", "json", "safetensors"].contains(&kind), "{file}");
            }
        }
        let hybrid = KnownCheckpoint::from_name("vit-r50-b16-in21k").unwrap();
        assert_eq!(hybrid.files().next().as_deref(), Some("R50+ViT-B_16.npz"));
    }
}
