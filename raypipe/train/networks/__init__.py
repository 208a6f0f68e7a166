"""Networks: VGG-16 and others, their pretrained and initial weights, and their last layers."""
