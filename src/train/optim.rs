//! AdamW (Loshchilov & Hutter, arXiv 1711.05101) on named variables. Its state can be saved and restored.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use crate::config::optim::OptimConfig;

/// Gradients by the name of their variable.
pub type NamedGrads = BTreeMap<String, Tensor>;

/// Owns the moments of the variables. Updates are in the order of the names, so two runs agree bit for bit.
pub struct AdamW {
    pub config: OptimConfig,
    vars: BTreeMap<String, Var>,
    moments: BTreeMap<String, (Tensor, Tensor)>,
    updates: u64,
}

impl AdamW {
    pub fn new(config: OptimConfig, vars: BTreeMap<String, Var>) -> Result<Self> {
        let zero = |var: &Var| Ok::<_, candle_core::Error>((var.zeros_like()?, var.zeros_like()?));
        let moments = vars.iter().map(|(name, var)| Ok((name.clone(), zero(var)?))).collect::<Result<_>>()?;
        Ok(Self { config, vars, moments, updates: 0 })
    }

    /// How many updates have been made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Makes one update, after scaling `grads` down to the largest norm allowed. Returns the norm before that.
    ///
    /// If the norm is not finite, nothing changes; the caller sees it in the return value.
    pub fn step(&mut self, grads: &NamedGrads, lr: f64) -> Result<f64> {
        let norm = global_norm(grads)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let limit = self.config.max_grad_norm;
        let clip = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
        self.updates += 1;
        for (name, grad) in grads {
            self.update(name, &(grad * clip)?, lr)?;
        }
        Ok(norm)
    }

    fn update(&mut self, name: &str, grad: &Tensor, lr: f64) -> Result<()> {
        let missing = || candle_core::Error::Msg(format!("no variable {name}: this is a bug"));
        let var = self.vars.get(name).ok_or_else(missing)?;
        let (m, v) = self.moments.get_mut(name).ok_or_else(missing)?;
        let OptimConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        *m = ((&*m * beta1)? + (grad * (1.0 - beta1))?)?;
        *v = ((&*v * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
        let t = self.updates as i32;
        let m_hat = (&*m / (1.0 - beta1.powi(t)))?;
        let v_hat = (&*v / (1.0 - beta2.powi(t)))?;
        let decayed = (var.as_tensor() * (1.0 - lr * weight_decay))?;
        var.set(&(decayed - (m_hat / (v_hat.sqrt()? + eps)?)? * lr)?)
    }

    /// The moments as named tensors (`<name>.m`, `<name>.v`), and the number of updates.
    pub fn state(&self) -> (BTreeMap<String, Tensor>, u64) {
        let named = |(name, (m, v)): (&String, &(Tensor, Tensor))| {
            [(format!("{name}.m"), m.clone()), (format!("{name}.v"), v.clone())]
        };
        (self.moments.iter().flat_map(named).collect(), self.updates)
    }

    /// Replaces the state by a saved one.
    ///
    /// # Errors
    /// If a moment is missing, or its shape differs from its variable's.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>, updates: u64) -> Result<()> {
        for (name, (m, v)) in &mut self.moments {
            for (slot, key) in [(m, format!("{name}.m")), (v, format!("{name}.v"))] {
                let saved = tensors.get(&key).ok_or_else(|| candle_core::Error::Msg(format!("{key} is missing")))?;
                if saved.dims() != slot.dims() {
                    let message = format!("{key}: expected shape {:?}, found {:?}", slot.dims(), saved.dims());
                    return Err(candle_core::Error::Msg(message));
                }
                *slot = saved.to_device(slot.device())?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

/// L2 norm of all gradients together. Waits for the device once.
pub fn global_norm(grads: &NamedGrads) -> Result<f64> {
    if grads.is_empty() {
        return Ok(0.0);
    }
    let squares = grads.values().map(|grad| grad.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    let squares = Tensor::stack(&squares, 0)?.to_vec1::<f32>()?;
    Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn one_var(values: &[f32]) -> (BTreeMap<String, Var>, Var) {
        let var = Var::from_slice(values, values.len(), &Device::Cpu).unwrap();
        (BTreeMap::from([("w".to_string(), var.clone())]), var)
    }

    /// Two updates computed by hand, following the paper's Algorithm 2.
    #[test]
    fn two_updates_match_the_algorithm() {
        let (vars, var) = one_var(&[1.0, -2.0]);
        let config = OptimConfig { lr: 0.1, weight_decay: 0.01, max_grad_norm: 0.0, ..OptimConfig::default() };
        let mut optimiser = AdamW::new(config.clone(), vars).unwrap();
        let (mut w, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        for (t, grad) in [[0.5f64, -1.0], [0.25, 2.0]].into_iter().enumerate() {
            let tensor = Tensor::new(&[grad[0] as f32, grad[1] as f32], &Device::Cpu).unwrap();
            optimiser.step(&BTreeMap::from([("w".to_string(), tensor)]), 0.1).unwrap();
            for i in 0..2 {
                m[i] = 0.9 * m[i] + 0.1 * grad[i];
                v[i] = 0.999 * v[i] + 0.001 * grad[i] * grad[i];
                let hat = (m[i] / (1.0 - 0.9f64.powi(t as i32 + 1)), v[i] / (1.0 - 0.999f64.powi(t as i32 + 1)));
                w[i] = w[i] * (1.0 - 0.1 * 0.01) - 0.1 * hat.0 / (hat.1.sqrt() + 1e-8);
            }
        }
        let got = var.to_vec1::<f32>().unwrap();
        assert!((f64::from(got[0]) - w[0]).abs() < 1e-5 && (f64::from(got[1]) - w[1]).abs() < 1e-5, "{got:?} {w:?}");
    }

    #[test]
    fn clipping_scales_to_the_limit_and_a_nan_changes_nothing() {
        let (vars, var) = one_var(&[0.0, 0.0]);
        let mut optimiser = AdamW::new(OptimConfig { max_grad_norm: 1.0, ..OptimConfig::default() }, vars).unwrap();
        let grads = |a: f32, b: f32| BTreeMap::from([("w".to_string(), Tensor::new(&[a, b], &Device::Cpu).unwrap())]);
        assert_eq!(optimiser.step(&grads(3.0, 4.0), 0.1).unwrap(), 5.0);
        let m = optimiser.state().0["w.m"].to_vec1::<f32>().unwrap();
        assert!((m[0] - 0.06).abs() < 1e-6 && (m[1] - 0.08).abs() < 1e-6, "{m:?}");
        let before = var.to_vec1::<f32>().unwrap();
        assert!(optimiser.step(&grads(f32::NAN, 0.0), 0.1).unwrap().is_nan());
        assert_eq!(var.to_vec1::<f32>().unwrap(), before);
        assert_eq!(optimiser.updates(), 1);
    }

    #[test]
    fn a_restored_state_continues_bit_for_bit() {
        let grad = BTreeMap::from([("w".to_string(), Tensor::new(&[0.3f32, -0.7], &Device::Cpu).unwrap())]);
        let run = |restart: bool| {
            let (vars, var) = one_var(&[1.0, 2.0]);
            let mut optimiser = AdamW::new(OptimConfig::default(), vars.clone()).unwrap();
            optimiser.step(&grad, 0.1).unwrap();
            if restart {
                let (state, updates) = optimiser.state();
                optimiser = AdamW::new(OptimConfig::default(), vars).unwrap();
                optimiser.restore(&state, updates).unwrap();
            }
            optimiser.step(&grad, 0.1).unwrap();
            var.to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(false), run(true));
    }
}
