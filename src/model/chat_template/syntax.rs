//! A parsed template in which operators, attributes and method calls are calls of functions. Their names are no identifiers, so no
//! template can name or replace them.

use minijinja::machinery::ast::{self, Expr, Spanned, Stmt};
use minijinja::machinery::{Span, WhitespaceConfig};
use minijinja::{Error, Value};

use super::expressions::{Expressions, call, constant, variable};
use super::text::{Parsed, refused, scan};

/// # Errors
/// A template that cannot be parsed, or that has a statement or a name that is not supported.
pub fn parse(text: &'static str) -> Result<Stmt<'static>, Error> {
    let whitespace = WhitespaceConfig { trim_blocks: true, lstrip_blocks: true, ..WhitespaceConfig::default() };
    let with_defaults = scan(text, whitespace)?;
    let template = minijinja::machinery::parse(text, "template", Default::default(), whitespace)?;
    let expressions = Expressions { text, with_defaults: &with_defaults };
    Rewrite { expressions, scope: Scope::Template }.statement(&template)
}

/// The innermost scope that a statement is in.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Template,
    Macro,
    Loop,
    /// A `with`, `filter` or `set` block.
    Block,
}

#[derive(Clone, Copy)]
struct Rewrite<'t> {
    expressions: Expressions<'t>,
    scope: Scope,
}

impl Rewrite<'_> {
    fn within(&self, scope: Scope) -> Self {
        Self { scope, ..*self }
    }

    fn statements(&self, all: &[Stmt<'static>]) -> Parsed<Vec<Stmt<'static>>> {
        all.iter().map(|it| self.statement(it)).collect()
    }

    fn statement(&self, statement: &Stmt<'static>) -> Parsed<Stmt<'static>> {
        Ok(match statement {
            Stmt::Template(it) => {
                Stmt::Template(Spanned::new(ast::Template { children: self.statements(&it.children)? }, it.span()))
            }
            Stmt::EmitExpr(it) => {
                Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr: self.expressions.one(&it.expr)? }, it.span()))
            }
            // As a printed value, so that it is charged for.
            Stmt::EmitRaw(it) => Stmt::EmitExpr(Spanned::new(
                ast::EmitExpr { expr: constant(Value::from(it.raw), it.span()) },
                it.span(),
            )),
            Stmt::ForLoop(it) => Stmt::ForLoop(Spanned::new(self.for_loop(it)?, it.span())),
            Stmt::IfCond(it) => {
                let (expr, true_body) = (self.expressions.one(&it.expr)?, self.statements(&it.true_body)?);
                let condition = ast::IfCond { expr, true_body, false_body: self.statements(&it.false_body)? };
                Stmt::IfCond(Spanned::new(condition, it.span()))
            }
            Stmt::WithBlock(it) => {
                // Jinja2 gives every one of them the outer values, minijinja those of the ones before it.
                if it.assignments.len() > 1 {
                    return Err(refused(it.span(), "a `with` of several variables is not supported"));
                }
                let assign = |(to, from): &(Expr<'static>, _)| Ok((self.target(to)?, self.expressions.one(from)?));
                let assignments = it.assignments.iter().map(assign).collect::<Parsed<_>>()?;
                self.scoped(assignments, &it.body, it.span())?
            }
            Stmt::Set(it) => {
                let mut expr = self.expressions.one(&it.expr)?;
                if let Expr::GetAttr(_) = &it.target {
                    expr = call("kept", it.span(), vec![expr]);
                }
                let set = ast::Set { target: self.target(&it.target)?, expr };
                Stmt::Set(Spanned::new(set, it.span()))
            }
            Stmt::SetBlock(it) => {
                let filter = it.filter.as_ref().map(|it| self.expressions.one(it)).transpose()?;
                let body = vec![self.scoped(Vec::new(), &it.body, it.span())?];
                Stmt::SetBlock(Spanned::new(
                    ast::SetBlock { target: self.target(&it.target)?, filter, body },
                    it.span(),
                ))
            }
            Stmt::FilterBlock(it) => {
                let filter = self.expressions.one(&it.filter)?;
                let body = vec![self.scoped(Vec::new(), &it.body, it.span())?];
                Stmt::FilterBlock(Spanned::new(ast::FilterBlock { filter, body }, it.span()))
            }
            Stmt::Macro(it) if self.scope != Scope::Template => {
                return Err(refused(it.span(), "a macro inside a loop, a block or a macro is not supported"));
            }
            Stmt::Macro(it) => Stmt::Macro(self.macro_(it)?),
            Stmt::CallBlock(it) => {
                let call = match self.expressions.call(&it.call)? {
                    Expr::Call(call) => call,
                    _ => return Err(refused(it.span(), "this `call` is not supported")),
                };
                let block = ast::CallBlock { call, macro_decl: self.macro_(&it.macro_decl)? };
                Stmt::CallBlock(Spanned::new(block, it.span()))
            }
            Stmt::Continue(it) if self.scope == Scope::Loop => Stmt::Continue(Spanned::new(ast::Continue, it.span())),
            Stmt::Break(it) if self.scope == Scope::Loop => Stmt::Break(Spanned::new(ast::Break, it.span())),
            Stmt::Continue(it) => return Err(refused(it.span(), "`continue` inside a block is not supported")),
            Stmt::Break(it) => return Err(refused(it.span(), "`break` inside a block is not supported")),
            Stmt::AutoEscape(it) => return Err(refused(it.span(), "`autoescape` is not supported")),
            Stmt::Block(it) => return Err(refused(it.span(), "`block` is not supported")),
            Stmt::Do(it) => return Err(refused(it.span(), "transformers does not know `do`")),
            Stmt::Import(it) => return Err(refused(it.span(), "transformers has no other template to import")),
            Stmt::FromImport(it) => return Err(refused(it.span(), "transformers has no other template to import")),
            Stmt::Extends(it) => return Err(refused(it.span(), "transformers has no other template to extend")),
            Stmt::Include(it) => return Err(refused(it.span(), "transformers has no other template to include")),
        })
    }

    /// Statements with a scope of their own, which those in a `set` or `filter` block have in Jinja2 only.
    fn scoped(
        &self,
        assignments: Vec<(Expr<'static>, Expr<'static>)>,
        body: &[Stmt<'static>],
        span: Span,
    ) -> Parsed<Stmt<'static>> {
        let body = self.within(Scope::Block).statements(body)?;
        Ok(Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments, body }, span)))
    }

    fn for_loop(&self, it: &Spanned<ast::ForLoop<'static>>) -> Parsed<ast::ForLoop<'static>> {
        if it.recursive {
            return Err(refused(it.span(), "a recursive loop is not supported"));
        }
        Ok(ast::ForLoop {
            target: self.target(&it.target)?,
            iter: call("iterate", it.span(), vec![self.expressions.one(&it.iter)?]),
            filter_expr: it.filter_expr.as_ref().map(|it| self.expressions.one(it)).transpose()?,
            recursive: false,
            body: self.within(Scope::Loop).statements(&it.body)?,
            else_body: self.statements(&it.else_body)?,
        })
    }

    fn macro_(&self, it: &Spanned<ast::Macro<'static>>) -> Parsed<Spanned<ast::Macro<'static>>> {
        let args = it.args.iter().map(|it| self.target(it)).collect::<Parsed<_>>()?;
        // Evaluated before the parameters have their values.
        if it.defaults.iter().any(|default| !matches!(default, Expr::Const(_) | Expr::List(_) | Expr::Map(_))) {
            return Err(refused(it.span(), "a parameter's default that is computed is not supported"));
        }
        let defaults = it.defaults.iter().map(|it| self.expressions.one(it)).collect::<Parsed<_>>()?;
        let body = self.within(Scope::Macro).statements(&it.body)?;
        Ok(Spanned::new(ast::Macro { name: it.name, args, defaults, body }, it.span()))
    }

    /// What a value is assigned to.
    fn target(&self, target: &Expr<'static>) -> Parsed<Expr<'static>> {
        Ok(match target {
            Expr::Var(it) => variable(it.id, it.span()),
            Expr::GetAttr(it) => {
                Expr::GetAttr(Spanned::new(ast::GetAttr { expr: self.target(&it.expr)?, name: it.name }, it.span()))
            }
            Expr::List(it) => {
                let items = it.items.iter().map(|it| self.target(it)).collect::<Parsed<_>>()?;
                Expr::List(Spanned::new(ast::List { items }, it.span()))
            }
            other => return Err(refused(other.span(), "nothing can be assigned to this")),
        })
    }
}
