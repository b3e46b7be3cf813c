//! The gradients of a loss on the last hidden states. Either every activation is kept, or each block's input is kept and
//! the block is computed again. Both ways give the same bits.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use super::lora::Lora;
use super::model::{Model, Rows};
use super::optim::NamedGrads;
use super::parallel;

/// A model to differentiate, and its trained variables.
pub struct Graph<'a> {
    pub model: &'a Model,
    pub lora: Option<&'a Lora>,
    pub vars: &'a BTreeMap<String, Var>,
    /// Whether only each block's input is kept, and the backward pass computes the block again.
    pub recomputes: bool,
}

impl Graph<'_> {
    /// The gradients of `loss`, and its second result. The argument of `loss` is the residual stream after the last block
    /// (N × D).
    pub fn gradients<R>(
        &self,
        rows: &Rows,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, R)>,
    ) -> Result<(NamedGrads, R)> {
        if self.recomputes {
            return self.by_block(rows, loss);
        }
        let (loss, output) = loss(&self.model.hidden(rows, self.lora)?)?;
        Ok((parallel::gradients(&loss, self.vars)?, output))
    }

    fn by_block<R>(&self, rows: &Rows, loss: impl FnOnce(&Tensor) -> Result<(Tensor, R)>) -> Result<(NamedGrads, R)> {
        let mut inputs = self.model.checkpoints(rows, self.lora)?;
        let Some(last) = inputs.pop() else { unreachable!("checkpoints end with the last block's output") };
        let hidden = Var::from_tensor(&last)?;
        let (loss, output) = loss(hidden.as_tensor())?;
        let (mut grad, grads) = self.step_back(&loss, &hidden)?;
        drop((loss, last, hidden));
        let mut all = vec![grads];
        while let Some(input) = inputs.pop() {
            let input = Var::from_tensor(&input)?;
            let block = self.model.block(inputs.len(), input.as_tensor(), rows, self.lora)?;
            // Backward starts from ones, and the derivative of block·grad with respect to block is grad.
            let (next, grads) = self.step_back(&(block * grad)?, &input)?;
            grad = next;
            all.push(grads);
        }
        if self.model.weights.embed_tokens.is_variable() {
            let loss = (self.model.embed(rows)? * grad)?;
            all.push(parallel::gradients(&loss, self.vars)?);
        }
        Ok((parallel::sum(all)?, output))
    }

    /// The gradients of `loss` with respect to `input` and to the trained variables.
    fn step_back(&self, loss: &Tensor, input: &Var) -> Result<(Tensor, NamedGrads)> {
        let mut store = loss.backward()?;
        let missing = || candle_core::Error::Msg("a block passed no gradient".into());
        let grad = store.remove(input).ok_or_else(missing)?;
        Ok((grad, parallel::take(&mut store, self.vars)))
    }
}
