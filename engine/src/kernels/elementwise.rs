//! Norms, biases, rotations and SwiGLU.

use pulp::Arch;
use rayon::prelude::*;

use super::split::Split;
use crate::math::exp;

/// `out` = x / rms(x) · weight over the features of each row; x and out (D × n), weight (D) (arXiv 1910.07467).
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, n: usize) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut scale = vec![0.0f32; n];
            for x in x.chunks_exact(n) {
                scale.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
            }
            scale.iter_mut().for_each(|sum| *sum = 1.0 / (*sum / weight.len() as f32 + eps).sqrt());
            for ((out, x), weight) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(weight) {
                out.iter_mut().zip(x).zip(&scale).for_each(|((out, x), scale)| *out = x * scale * weight);
            }
        },
    );
}

/// out (O × n) += bias (O), column by column.
pub fn add_bias(out: &mut [f32], bias: &[f32], n: usize) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (out, bias) in out.chunks_exact_mut(n).zip(bias) {
                out.iter_mut().for_each(|out| *out += bias);
            }
        },
    );
}

/// Rotates each head of x (heads · d × n) in place; cos and sin (d/2 × n) (arXiv 2104.09864; halves as in Llama).
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for head in x.chunks_exact_mut(2 * cos.len()) {
                let (left, right) = head.split_at_mut(cos.len());
                for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
                }
            }
        },
    );
}

/// gate = silu(gate) · up, element by element (arXiv 2002.05202).
pub fn swiglu(gate: &mut [f32], up: &[f32], split: Split) {
    let kernel = |gate: &mut [f32], up: &[f32]| {
        Arch::new().dispatch(
            #[inline(always)]
            || gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + exp(-*gate)) * up),
        );
    };
    match split {
        Split::Alone => kernel(gate, up),
        Split::Threads => {
            const PART: usize = 16 * 1024;
            gate.par_chunks_mut(PART).zip(up.par_chunks(PART)).for_each(|(gate, up)| kernel(gate, up));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::random;
    use super::*;

    #[test]
    fn norm_rope_and_swiglu_follow_their_formulas() {
        let (d, n) = (32, 16);
        let (x, weight) = (random(d * n, 7), random(d, 8));
        let mut out = vec![0.0; d * n];
        rms_norm(&mut out, &x, &weight, 1e-5, n);
        let row = 3;
        let mean = (0..d).map(|i| f64::from(x[i * n + row]).powi(2)).sum::<f64>() / d as f64;
        for i in 0..d {
            let want = f64::from(x[i * n + row]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
            assert!((f64::from(out[i * n + row]) - want).abs() < 1e-5);
        }
        let angle = 0.3f32;
        let mut turned = x.clone();
        rope(&mut turned, &vec![angle.cos(); d / 2 * n], &vec![angle.sin(); d / 2 * n]);
        let (a, b) = (x[5 * n + row], x[(5 + d / 2) * n + row]);
        assert!((turned[5 * n + row] - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
        assert!((turned[(5 + d / 2) * n + row] - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
        let mut gate = x.clone();
        swiglu(&mut gate, &out, Split::Threads);
        let want = x[40] / (1.0 + (-x[40]).exp()) * out[40];
        assert!((gate[40] - want).abs() < 1e-6);
    }
}
