//! What is known of an expression before any event: names that there are not, functions that are
//! called wrongly, values that can never be compared, and whether it says yes or no at all.

use std::collections::HashMap;

use cel::{
    IdedExpr,
    common::ast::{
        CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, SourceInfo,
        operators as op,
    },
};

use super::{
    FilterError, MAX_PATTERNS, bounded,
    decimal::{self, DECIMAL},
    facts::EVENT,
    kind::{
        ABOUT_AMOUNTS, DATA, FIELDS, FUNCTIONS, Kind, MACROS, MAX_DEPTH, TYPES, is_operator,
        of_literal,
    },
    pattern::{MATCHES, Pattern},
};
use crate::connector::did_you_mean;

/// Checks an expression and takes its patterns out of it, compiled; tells how deep it is, too.
pub(super) fn check(
    text: &str,
    expression: &mut IdedExpr,
    source: &SourceInfo,
) -> Result<(Vec<(String, Pattern)>, usize), FilterError> {
    let mut walk = Walk {
        text,
        source,
        patterns: Vec::new(),
        items: HashMap::new(),
        locals: Vec::new(),
        in_macro: false,
        depth: 0,
        deepest: 0,
    };
    let kind = walk.kind(expression)?;
    if !matches!(kind, Kind::Bool | Kind::Any) {
        let words = format!("the expression must be true or false, is {}", kind.name());
        return Err(FilterError::at(text, 0, words));
    }
    Ok((walk.patterns, walk.deepest))
}

struct Walk<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    patterns: Vec<(String, Pattern)>,
    /// What lists have in them, and which keys objects have, where they stand in the expression.
    items: HashMap<u64, Vec<Kind>>,
    /// The variables of the macro around.
    locals: Vec<String>,
    in_macro: bool,
    depth: usize,
    deepest: usize,
}

impl Walk<'_> {
    fn error(&self, id: u64, words: impl std::fmt::Display) -> FilterError {
        match self.source.offset_for(id) {
            Some((start, _)) => FilterError::at(self.text, start as usize, words),
            None => FilterError::new(words),
        }
    }

    fn kind(&mut self, node: &mut IdedExpr) -> Result<Kind, FilterError> {
        if self.depth >= MAX_DEPTH {
            let words = format!("operators are chained or nested more than {MAX_DEPTH} deep");
            return Err(self.error(node.id, words));
        }
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        let kind = self.kind_of(node);
        self.depth -= 1;
        kind
    }

    fn kind_of(&mut self, node: &mut IdedExpr) -> Result<Kind, FilterError> {
        let id = node.id;
        match &mut node.expr {
            Expr::Unspecified => Ok(Kind::Any),
            Expr::Literal(literal) => Ok(of_literal(literal)),
            Expr::Ident(name) => self.variable(id, name),
            Expr::Select(select) => self.field(id, select),
            Expr::Call(call) => self.call(id, call),
            Expr::List(list) => {
                let items = list.elements.iter_mut().map(|item| self.kind(item));
                let items = items.collect::<Result<_, _>>()?;
                self.items.insert(id, items);
                Ok(Kind::List)
            }
            Expr::Map(map) => {
                let mut keys = Vec::new();
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        keys.push(self.kind(&mut entry.key)?);
                        self.kind(&mut entry.value)?;
                    }
                }
                self.items.insert(id, keys);
                Ok(Kind::Map)
            }
            Expr::Struct(made) => {
                let words = format!("there is no type {:?} to make", made.type_name);
                Err(self.error(id, words))
            }
            Expr::Comprehension(around) => self.comprehension(id, around),
        }
    }

    fn variable(&self, id: u64, name: &str) -> Result<Kind, FilterError> {
        if self.is_local(name) {
            Ok(Kind::Any)
        } else if name == EVENT {
            Ok(Kind::Map)
        } else if TYPES.contains(&name) {
            Ok(Kind::Type)
        } else {
            let known = self.locals.iter().map(String::as_str).chain([EVENT]);
            let is_field = FIELDS.iter().any(|(field, _)| *field == name);
            let hint = if is_field {
                format!(", did you mean \"{EVENT}.{name}\"?")
            } else if DATA.iter().any(|(field, _)| *field == name) {
                format!(", did you mean \"{EVENT}.data.{name}\"?")
            } else {
                did_you_mean(name, known)
            };
            Err(self.error(id, format_args!("unknown variable {name:?}{hint}")))
        }
    }

    fn is_local(&self, name: &str) -> bool {
        self.locals.iter().any(|local| local == name)
    }

    fn is_event(&self, node: &IdedExpr) -> bool {
        matches!(&node.expr, Expr::Ident(name) if name == EVENT && !self.is_local(name))
    }

    fn is_data(&self, node: &IdedExpr) -> bool {
        match &node.expr {
            Expr::Select(select) => {
                select.field == "data" && !select.test && self.is_event(&select.operand)
            }
            Expr::Call(call) => match indexed(call) {
                Some((of, field)) => field == "data" && self.is_event(of),
                None => false,
            },
            _ => false,
        }
    }

    /// The kind of a field of the event, or of its data; nothing of other values.
    fn event_field(
        &self,
        id: u64,
        operand: &IdedExpr,
        field: &str,
    ) -> Result<Option<Kind>, FilterError> {
        let known = |fields: &[(&str, Kind)]| {
            fields.iter().find(|(name, _)| *name == field).map(|(_, kind)| *kind)
        };
        if self.is_data(operand) {
            return Ok(Some(known(DATA).unwrap_or(Kind::Any)));
        }
        if !self.is_event(operand) {
            return Ok(None);
        }
        known(FIELDS).map(Some).ok_or_else(|| {
            let hint = match known(DATA) {
                Some(_) => format!(", did you mean \"{EVENT}.data.{field}\"?"),
                None => did_you_mean(field, FIELDS.iter().map(|(name, _)| *name)),
            };
            self.error(id, format_args!("an event has no field {field:?}{hint}"))
        })
    }

    fn field(&mut self, id: u64, select: &mut SelectExpr) -> Result<Kind, FilterError> {
        let kind = if let Some(kind) = self.event_field(id, &select.operand, &select.field)? {
            kind
        } else {
            let of = self.kind(&mut select.operand)?;
            if !matches!(of, Kind::Any | Kind::Map) {
                let words = format!("{} has no field {:?}", of.name(), select.field);
                return Err(self.error(id, words));
            }
            Kind::Any
        };
        Ok(if select.test { Kind::Bool } else { kind })
    }

    fn call(&mut self, id: u64, call: &mut CallExpr) -> Result<Kind, FilterError> {
        if is_operator(&call.func_name) {
            if let Some((of, field)) = indexed(call)
                && let Some(kind) = self.event_field(id, of, field)?
            {
                return Ok(kind);
            }
            let kinds = call.args.iter_mut().map(|argument| self.kind(argument));
            let kinds = kinds.collect::<Result<Vec<Kind>, _>>()?;
            if let (op::IN, [one, _], [_, among]) =
                (call.func_name.as_str(), kinds.as_slice(), call.args.as_slice())
            {
                for item in self.items.get(&among.id).into_iter().flatten() {
                    self.can_equal(id, op::IN, *one, *item)?;
                }
            }
            let kind = self.operator(id, &call.func_name, &kinds)?;
            if call.func_name == op::ADD {
                bounded::bound_sum(call);
            }
            return Ok(kind);
        }
        let name = call.func_name.clone();
        let count = call.args.len() + usize::from(call.target.is_some());
        let Some((_, arguments, kind)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let known = FUNCTIONS.iter().map(|(name, ..)| *name).chain(MACROS.iter().copied());
            let words = if MACROS.contains(&name.as_str()) {
                format!("{name:?} is not called so: write has(event.data.x), or list.{name}(x, …)")
            } else {
                format!("unknown function {name:?}{}", did_you_mean(&name, known))
            };
            return Err(self.error(id, words));
        };
        if count != *arguments {
            let words = format!("{name:?} takes {arguments} values, is given {count}");
            return Err(self.error(id, words));
        }
        if name == MATCHES {
            self.pattern(id, call)?;
        }
        let mut given = Vec::new();
        for argument in call.target.iter_mut().map(|target| &mut **target).chain(&mut call.args) {
            let is_pattern = matches!(&argument.expr, Expr::Ident(name) if name.starts_with('@'));
            given.push(if is_pattern { Kind::Text } else { self.kind(argument)? });
        }
        match (name.as_str(), given.first()) {
            ("contains" | "startsWith" | "endsWith", _) if call.target.is_none() => {
                Err(self.error(id, format_args!("write text.{name}(…)")))
            }
            ("contains" | "startsWith" | "endsWith" | MATCHES, _)
                if given.iter().any(|kind| kind.differs_from(Kind::Text)) =>
            {
                Err(self.error(id, format_args!("{name:?} is for texts")))
            }
            (DECIMAL, Some(Kind::Double)) => {
                let words = "decimal takes a text or a whole number: write decimal(\"1.25\")";
                Err(self.error(id, words))
            }
            (DECIMAL, _) => self.decimal(id, call).map(|()| *kind),
            _ => Ok(*kind),
        }
    }

    fn decimal(&self, id: u64, call: &CallExpr) -> Result<(), FilterError> {
        let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(text)), .. }) =
            call.args.first()
        else {
            return Ok(());
        };
        decimal::parse(text.inner())
            .map(|_| ())
            .map_err(|words| self.error(id, format_args!("{:?} {words}", text.inner())))
    }

    fn operator(&self, id: u64, name: &str, kinds: &[Kind]) -> Result<Kind, FilterError> {
        let (one, other) = match kinds {
            [one, other, ..] => (*one, *other),
            [one] => (*one, *one),
            [] => return Ok(Kind::Any),
        };
        let sign = name.trim_matches('_');
        let unfit = |why: &str| {
            let words =
                format!("{sign:?} is for {why}, not for {} and {}", one.name(), other.name());
            Err(self.error(id, words))
        };
        match name {
            op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT => {
                if one.differs_from(Kind::Bool) || other.differs_from(Kind::Bool) {
                    return unfit("booleans");
                }
                Ok(Kind::Bool)
            }
            op::NOT_STRICTLY_FALSE | op::IN => Ok(Kind::Bool),
            op::CONDITIONAL => {
                if one.differs_from(Kind::Bool) {
                    return unfit("a boolean first");
                }
                Ok(kinds.get(2).filter(|third| **third == other).map_or(Kind::Any, |third| *third))
            }
            op::EQUALS | op::NOT_EQUALS => {
                self.can_equal(id, name, one, other).map(|()| Kind::Bool)
            }
            op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                if one == Kind::Amount || other == Kind::Amount {
                    return Err(self.error(id, ABOUT_AMOUNTS));
                }
                if one.differs_from(other) {
                    let is_decimal = one == Kind::Decimal || other == Kind::Decimal;
                    let hint =
                        if is_decimal { format!("; {ABOUT_AMOUNTS}") } else { String::new() };
                    let words =
                        format!("{} cannot be compared with {}{hint}", one.name(), other.name());
                    return Err(self.error(id, words));
                }
                Ok(Kind::Bool)
            }
            op::INDEX => Ok(Kind::Any),
            op::NEGATE => match one {
                Kind::Int | Kind::Double | Kind::Any => Ok(one),
                _ => unfit("numbers"),
            },
            _ if one.differs_from(other) => unfit("two of a kind"),
            _ => match (one, other) {
                // Two texts after each other are no amount.
                (Kind::Amount, _) | (_, Kind::Amount) => Ok(Kind::Text),
                (Kind::Bool | Kind::Map | Kind::Null | Kind::Type, _) => unfit("numbers and texts"),
                (Kind::Any, Kind::Any) => Ok(Kind::Any),
                (Kind::Any, known) | (known, _) => Ok(known),
            },
        }
    }

    /// Refuses to compare what is never equal, and amounts as texts: those of one amount may differ.
    fn can_equal(&self, id: u64, sign: &str, one: Kind, other: Kind) -> Result<(), FilterError> {
        let kinds = [one, other];
        if kinds.contains(&Kind::Null) {
            return Ok(());
        }
        let is_text = |kind: &Kind| matches!(kind, Kind::Amount | Kind::Text);
        let is_exact = |kind: &Kind| matches!(kind, Kind::Amount | Kind::Decimal);
        let hint = match sign.trim_matches(['_', '@']) {
            "in" => "in [decimal(\"100\"), …]".to_owned(),
            op => format!("{op} decimal(\"100\")"),
        };
        let hint = format!("write decimal(event.data.amount) {hint}");
        if kinds.contains(&Kind::Amount) && kinds.iter().all(is_text) {
            let words = format!("amounts are texts, of which \"100\" is not \"100.00\": {hint}");
            return Err(self.error(id, words));
        }
        if one.differs_from(other) {
            let hint = if kinds.iter().any(is_exact) { format!("; {hint}") } else { String::new() };
            let words = format!("{} never equals {}{hint}", one.name(), other.name());
            return Err(self.error(id, words));
        }
        Ok(())
    }

    fn comprehension(
        &mut self,
        id: u64,
        around: &mut ComprehensionExpr,
    ) -> Result<Kind, FilterError> {
        if self.in_macro {
            let words = "all, exists, exists_one, map and filter cannot stand within each other";
            return Err(self.error(id, words));
        }
        // What makes sure of a list is a step more.
        self.depth += 1;
        let range = self.kind(&mut around.iter_range)?;
        self.depth -= 1;
        let is_list = matches!(
            &around.iter_range.expr,
            Expr::Ident(_) | Expr::Select(_) | Expr::List(_) | Expr::Comprehension(_)
        );
        let is_item =
            matches!(&around.iter_range.expr, Expr::Call(call) if call.func_name == op::INDEX);
        if !(is_list || is_item) || !matches!(range, Kind::Any | Kind::List) {
            let words = "all, exists, exists_one, map and filter are for a list as it is";
            return Err(self.error(around.iter_range.id, words));
        }
        bounded::expect_list(&mut around.iter_range);
        let before = self.locals.len();
        self.in_macro = true;
        let names = [Some(&around.iter_var), around.iter_var2.as_ref(), Some(&around.accu_var)];
        self.locals.extend(names.into_iter().flatten().cloned());
        let begins_as = self.kind(&mut around.accu_init)?;
        self.kind(&mut around.loop_cond)?;
        self.kind(&mut around.loop_step)?;
        let result = self.kind(&mut around.result)?;
        self.locals.truncate(before);
        self.in_macro = false;
        Ok(if result == Kind::Any { begins_as } else { result })
    }

    /// Puts a variable in the place of a pattern, which is compiled here and never again.
    fn pattern(&mut self, id: u64, call: &mut CallExpr) -> Result<(), FilterError> {
        if self.in_macro {
            let words = "matches cannot stand in all, exists, exists_one, map and filter: use contains, startsWith or endsWith there";
            return Err(self.error(id, words));
        }
        if self.patterns.len() >= MAX_PATTERNS {
            let words = format!("matches may stand {MAX_PATTERNS} times in an expression");
            return Err(self.error(id, words));
        }
        let Some(argument) = call.args.last_mut() else { return Ok(()) };
        let Expr::Literal(LiteralValue::String(pattern)) = &argument.expr else {
            let words = "the pattern of matches must be a text that stands there";
            return Err(self.error(argument.id, words));
        };
        let compiled = Pattern::compile(pattern.inner());
        let compiled = compiled.map_err(|words| self.error(argument.id, words))?;
        let name = Pattern::name_of(self.patterns.len());
        argument.expr = Expr::Ident(name.clone());
        self.patterns.push((name, compiled));
        Ok(())
    }
}

/// What `a["b"]` is a field of, and its name.
fn indexed(call: &CallExpr) -> Option<(&IdedExpr, &str)> {
    match call.args.as_slice() {
        [of, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }]
            if call.func_name == op::INDEX =>
        {
            Some((of, field.inner()))
        }
        _ => None,
    }
}
