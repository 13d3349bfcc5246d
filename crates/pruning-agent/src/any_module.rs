//! Visitors and mappers of modules as traits that can stand behind a pointer. Burn's are generic over the number of a
//! parameter's dimensions.

use std::any::Any;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;

/// A [`ModuleVisitor`] whose parameters have lost their number of dimensions.
pub trait AnyVisitor {
    /// Visits a parameter of floats.
    fn float(&mut self, param: &dyn Any);
    /// [`ModuleVisitor::enter_module`]
    fn enter(&mut self, name: &str, container: &str);
    /// [`ModuleVisitor::exit_module`]
    fn exit(&mut self, name: &str, container: &str);
}

/// A [`ModuleMapper`] whose parameters have lost their number of dimensions.
pub trait AnyMapper {
    /// Maps a parameter of floats.
    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    /// [`ModuleMapper::enter_module`]
    fn enter(&mut self, name: &str, container: &str);
    /// [`ModuleMapper::exit_module`]
    fn exit(&mut self, name: &str, container: &str);
}

/// Takes the number of dimensions away.
pub(crate) struct Erased<'a, T: ?Sized>(pub &'a mut T);

impl ModuleVisitor for Erased<'_, dyn AnyVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.float(param);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ModuleMapper for Erased<'_, dyn AnyMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.float(Box::new(param)).downcast() {
            Ok(param) => *param,
            Err(_) => unreachable!("a parameter of {D} dimensions came back with another number"),
        }
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// Gives the number of dimensions back: 1 to 4.
pub(crate) struct Restored<'a, T>(pub &'a mut T);

impl<V: ModuleVisitor> Restored<'_, V> {
    fn is_visited<const D: usize>(&mut self, param: &dyn Any) -> bool {
        let param = param.downcast_ref::<Param<Tensor<D>>>();
        param.is_some_and(|param| {
            self.0.visit_float(param);
            true
        })
    }
}

impl<V: ModuleVisitor> AnyVisitor for Restored<'_, V> {
    fn float(&mut self, param: &dyn Any) {
        let visited = self.is_visited::<1>(param)
            || self.is_visited::<2>(param)
            || self.is_visited::<3>(param)
            || self.is_visited::<4>(param);
        assert!(visited, "a policy's parameters have 1 to 4 dimensions");
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> Restored<'_, M> {
    fn mapped<const D: usize>(
        &mut self,
        param: Box<dyn Any>,
    ) -> Result<Box<dyn Any>, Box<dyn Any>> {
        let param = param.downcast::<Param<Tensor<D>>>()?;
        Ok(Box::new(self.0.map_float(*param)))
    }
}

impl<M: ModuleMapper> AnyMapper for Restored<'_, M> {
    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any> {
        self.mapped::<1>(param)
            .or_else(|param| self.mapped::<2>(param))
            .or_else(|param| self.mapped::<3>(param))
            .or_else(|param| self.mapped::<4>(param))
            .unwrap_or_else(|_| panic!("a policy's parameters have 1 to 4 dimensions"))
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}
