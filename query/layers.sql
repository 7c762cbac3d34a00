-- What each layer of each model holds: rows, examples, labelled rows and the mean norm.
SELECT model, site, layer,
       count(*) AS rows,
       count(DISTINCT example_id) AS examples,
       count(label) AS labelled,
       round(avg(norm), 3) AS mean_norm
FROM activations
GROUP BY model, site, layer
ORDER BY model, site, layer
