-- What each layer of each model holds: rows, examples, labelled rows and the mean norm; each pooling and region by itself.
SELECT model, site, layer, pooling, region,
       count(*) AS rows,
       count(DISTINCT (dataset, split, example_id, example_index, mode, variant)) AS examples,
       count(label) AS labelled,
       round(avg(norm), 3) AS mean_norm
FROM activations
GROUP BY ALL
ORDER BY model, site, layer, pooling, region
