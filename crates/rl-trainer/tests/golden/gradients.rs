//! Gradients as PyTorch has them.

use apt_vit_model::Vit;
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Gradients;

fn flat<const D: usize>(param: &Param<Tensor<D>>, grads: &Gradients) -> Vec<f64> {
    param
        .val()
        .grad(grads)
        .unwrap()
        .into_data()
        .iter::<f64>()
        .collect()
}

/// `[in, out]` as PyTorch has it, `[out, in]`.
fn transposed(param: &Param<Tensor<2>>, grads: &Gradients) -> Vec<f64> {
    let grad = param.val().grad(grads).unwrap().transpose();
    grad.into_data().iter::<f64>().collect()
}

/// The part of a joint `[in, 3 * out]` or `[3 * out]` gradient that belongs to the query (0),
/// the key (1) or the value (2), as PyTorch has it.
fn part_of_qkv(linear: &nn::Linear, kind: &str, part: usize, grads: &Gradients) -> Vec<f64> {
    let width = linear.weight.dims()[0];
    match kind {
        "weight" => {
            let grad = linear.weight.val().grad(grads).unwrap();
            let grad = grad.narrow(1, part * width, width).transpose();
            grad.into_data().iter::<f64>().collect()
        }
        _ => flat(linear.bias.as_ref().unwrap(), grads)[part * width..(part + 1) * width].to_vec(),
    }
}

pub fn of_linear(linear: &nn::Linear, kind: &str, grads: &Gradients) -> Vec<f64> {
    match kind {
        "weight" => transposed(&linear.weight, grads),
        _ => flat(linear.bias.as_ref().unwrap(), grads),
    }
}

fn of_norm(norm: &nn::LayerNorm, kind: &str, grads: &Gradients) -> Vec<f64> {
    match kind {
        "weight" => flat(&norm.gamma, grads),
        _ => flat(norm.beta.as_ref().unwrap(), grads),
    }
}

/// A gradient of the model under the published implementation's name for it.
pub fn backbone_gradient(vit: &Vit, name: &str, grads: &Gradients) -> Vec<f64> {
    match name.split('.').collect::<Vec<_>>()[..] {
        ["pos_embed"] => flat(&vit.embedding.positions, grads),
        ["cls_token"] => flat(&vit.embedding.cls_token, grads),
        // [3 * patch * patch, out] to [out, 3, patch, patch]: the same order once transposed.
        ["patch", kind] => of_linear(&vit.embedding.projection, kind, grads),
        ["norm", kind] => of_norm(&vit.norm, kind, grads),
        ["head", kind] => of_linear(vit.head.as_ref().unwrap(), kind, grads),
        ["blocks", index, part, kind] => {
            let block = &vit.blocks[index.parse::<usize>().unwrap()];
            match part {
                "query" => part_of_qkv(&block.attention.qkv, kind, 0, grads),
                "key" => part_of_qkv(&block.attention.qkv, kind, 1, grads),
                "value" => part_of_qkv(&block.attention.qkv, kind, 2, grads),
                "out" => of_linear(&block.attention.output, kind, grads),
                "fc1" => of_linear(&block.mlp.expand, kind, grads),
                "fc2" => of_linear(&block.mlp.contract, kind, grads),
                "norm1" => of_norm(&block.attention_norm, kind, grads),
                "norm2" => of_norm(&block.mlp_norm, kind, grads),
                _ => panic!("no parameter is called {name}"),
            }
        }
        _ => panic!("no parameter is called {name}"),
    }
}
