"""Exchange of models with other programs: `export` and `import`."""
