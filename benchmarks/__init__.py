"""Speed and memory, measured side by side with the procedures as their authors released them."""
