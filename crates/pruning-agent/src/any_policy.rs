//! Policies of any type behind one pointer, as a Burn module.

use std::fmt::{Debug, Display, Formatter};
use std::ops::{Deref, DerefMut};

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::prelude::*;

use crate::any_module::{AnyMapper, AnyVisitor, Erased, Restored};
use crate::policy::{Policy, PolicyModule};

impl<P: Policy + Module + Sync + 'static> PolicyModule for P {
    fn clone_policy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }

    fn collect_policy_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.collect_devices(devices)
    }

    fn fork_policy(self: Box<Self>, device: &Device) -> Box<dyn Policy> {
        Box::new((*self).fork(device))
    }

    fn move_policy(self: Box<Self>, device: &Device) -> Box<dyn Policy> {
        Box::new((*self).to_device(device))
    }

    fn valid_policy(&self) -> Box<dyn Policy> {
        Box::new(self.valid())
    }

    fn train_policy(self: Box<Self>) -> Box<dyn Policy> {
        Box::new((*self).train())
    }

    fn materialize_policy(self: Box<Self>) -> Box<dyn Policy> {
        Box::new((*self).materialize())
    }

    fn visit_policy(&self, visitor: &mut dyn AnyVisitor) {
        self.visit(&mut Erased(visitor));
    }

    fn map_policy(self: Box<Self>, mapper: &mut dyn AnyMapper) -> Box<dyn Policy> {
        Box::new((*self).map(&mut Erased(mapper)))
    }
}

/// A policy of any type, with its weights.
pub struct AnyPolicy(Box<dyn Policy>);

impl AnyPolicy {
    /// Hides the type.
    pub fn new(policy: impl Policy + 'static) -> Self {
        Self(Box::new(policy))
    }
}

impl From<Box<dyn Policy>> for AnyPolicy {
    fn from(policy: Box<dyn Policy>) -> Self {
        Self(policy)
    }
}

impl Deref for AnyPolicy {
    type Target = dyn Policy;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for AnyPolicy {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl Clone for AnyPolicy {
    fn clone(&self) -> Self {
        Self(self.0.clone_policy())
    }
}

impl Debug for AnyPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl Display for AnyPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl ModuleDisplayDefault for AnyPolicy {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(self).optional()
    }
}

impl ModuleDisplay for AnyPolicy {}

impl Module for AnyPolicy {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_policy_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork_policy(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.move_policy(device))
    }

    fn valid(&self) -> Self {
        Self(self.0.valid_policy())
    }

    fn train(self) -> Self {
        Self(self.0.train_policy())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialize_policy())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_policy(&mut Restored(visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self(self.0.map_policy(&mut Restored(mapper)))
    }
}
