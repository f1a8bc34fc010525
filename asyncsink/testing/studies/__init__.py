"""Small studies as workflows leave them: a cohort of real images, and the same in Nipype."""
