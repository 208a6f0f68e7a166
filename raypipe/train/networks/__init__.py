"""Networks: VGG-16 and others, their weights, first weights and last layers."""
